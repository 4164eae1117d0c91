"""Writes the tables beside this file: pip install numpy pandas polars pyarrow."""

import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

names = ["a.png", "b.png", "c.png"]
latents = np.array([[0.5, -1], [0.25, 2], [-3, 0.125]])


def table(dtype, **more):
    columns = {f"mean_{i}": latents[:, i].astype(dtype) for i in range(2)}
    return pd.DataFrame({"file": names, **columns, **more})


for codec in ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]:
    table("float32").to_parquet(f"{codec}.parquet", compression=codec)
table("float16").to_parquet("float16.parquet")
table("float64").to_parquet("float64.parquet")
pl.DataFrame(table("float32")).write_parquet("polars.parquet")
table("float64")[lambda rows: rows.mean_0 > -9].iloc[::-1].iloc[::-1].to_parquet("index.parquet")

missing = table("float64")
missing.loc[1, "mean_1"] = None
pq.write_table(pa.Table.from_pandas(missing), "null.parquet")
pq.write_table(pa.table({"mean": pa.array(latents.tolist())}), "list.parquet")
cents = [decimal.Decimal("1.25")] * 3
pq.write_table(pa.table({"mean_0": cents, "mean_1": cents}), "decimal.parquet")

np.save("big-endian.npy", latents.astype(">f4"))
np.save("columns.npy", np.asfortranarray(latents.astype(">f8")))
np.save("float16.npy", latents.astype("<f2"))
np.save("integers.npy", latents.astype("<i8"))
np.save("one.npy", latents[0].astype("<f4"))
