"""Files of arrays as NumPy, pandas, pyarrow and safetensors write them, for tests/arrays.rs.

pip install numpy==2.4.6 pandas==3.1.1 pyarrow==26.0.1 safetensors==0.8.0, and then: python3 make.py
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

# Rows 0, 0.5, 1; 1.5, 2, 2.5; and so on.
table = (np.arange(24) / 2).reshape(8, 3)
labels = np.array([0, 1, 2, 0, 1, 2, 0, 1])

np.save("float64.npy", table)
np.save("fortran.npy", np.asfortranarray(table.astype("float32")))
np.save("transposed.npy", np.arange(24, dtype="int16").reshape(3, 2, 4).transpose(2, 0, 1))
images = np.arange(8 * 4 * 5, dtype="uint8").reshape(8, 4, 5)
np.savez_compressed("keras.npz", x_train=images, y_train=labels, x_test=images[:3], y_test=labels[:3])
np.savez("plain.npz", table)
np.savez_compressed("deflated.npz", table)
save_file({"x": table.astype("float16")}, "one.safetensors")
save_file({"x": table.astype("float32"), "y": labels}, "x.safetensors")

frame = pd.DataFrame(table, columns=["a", "b", "c"])
frame["flag"] = frame["a"] > 5
frame["size"] = pd.array([1, 2, None, 4, 5, 6, 7, 8], dtype="Int64")
frame["kind"] = pd.Categorical(["cat", "dog", "cat", "ant", "ant", "dog", "cat", "dog"])
frame["when"] = pd.date_range("2020-01-01", periods=8)
frame["vector"] = [None if i == 1 else list(row) for i, row in enumerate(table[:, :2].astype("float32"))]
frame.index = [10, 20, 30, 40, 50, 60, 70, 80]
frame.to_parquet("pandas.parquet")

column = pa.array([list(row) for row in table.astype("float32")], pa.list_(pa.float32(), 3))
pq.write_table(pa.table({"embedding": column, "n": pa.array(labels, pa.uint32())}), "fixed.parquet")
