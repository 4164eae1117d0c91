"""The tutorial's recipe in TensorFlow: the loss of 100 validation images after one epoch on 600, for many seeds.

    pip install tensorflow-cpu
    python benches/tutorial_keras.py datasets/mnist --seeds 40 [--no-clip] [--symmetric]

`--symmetric` pads the strided convolution on both sides, as configs/mnist-tutorial.toml does; Keras' "same" pads behind.
RMSprop is written out, because Keras 3 adds epsilon under the root and the tutorial's Keras 2 added it to the root.
"""
import argparse, glob, gzip, os
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
p = argparse.ArgumentParser()
p.add_argument("folder")
p.add_argument("--seeds", type=int, default=40)
p.add_argument("--no-clip", action="store_true")
p.add_argument("--symmetric", action="store_true")
a = p.parse_args()
import keras, numpy as np, tensorflow as tf
from keras import layers as L

file = glob.glob(os.path.join(a.folder, "train-images*"))[0]
with (gzip.open if file.endswith("gz") else open)(file, "rb") as f:
    images = np.frombuffer(f.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1).astype("float32") / 255
train, validation = images[:600], images[50000:50100]


def final_loss(seed):
    keras.utils.set_random_seed(seed)
    conv = lambda o, s=1, **k: L.Conv2D(o, 3, strides=s, padding="same", activation="relu", **k)
    down = conv(64, 2)
    if a.symmetric:
        strided = L.Conv2D(64, 3, strides=2, padding="valid", activation="relu")
        down = lambda x: strided(L.ZeroPadding2D(1)(x))
    i = keras.Input((28, 28, 1))
    h = conv(64)(conv(64)(down(conv(32)(i))))
    h = L.Dense(32, activation="relu")(L.Flatten()(h))
    encoder = keras.Model(i, [L.Dense(2)(h), L.Dense(2)(h)])
    j = keras.Input((2,))
    h = L.Reshape((14, 14, 64))(L.Dense(14 * 14 * 64, activation="relu")(j))
    h = L.Conv2DTranspose(32, 3, strides=2, padding="same", activation="relu")(h)
    decoder = keras.Model(j, L.Conv2D(1, 3, padding="same")(h))
    weights = encoder.trainable_weights + decoder.trainable_weights
    squares = [tf.Variable(tf.zeros_like(w)) for w in weights]

    def loss(x):
        mean, log_var = encoder(x)
        logits = decoder(mean + tf.exp(log_var) * tf.random.normal(tf.shape(mean)))
        if a.no_clip:
            entropy = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=logits))
        else:
            q = tf.clip_by_value(tf.sigmoid(logits), 1e-7, 1 - 1e-7)
            entropy = -tf.reduce_mean(x * tf.math.log(q) + (1 - x) * tf.math.log(1 - q))
        return entropy - 5e-4 * tf.reduce_mean(1 + log_var - mean**2 - tf.exp(log_var))

    order = np.random.default_rng(seed).permutation(600)
    for batch in order.reshape(6, 100):
        with tf.GradientTape() as tape:
            value = loss(train[batch])
        for w, square, g in zip(weights, squares, tape.gradient(value, weights)):
            square.assign(0.9 * square + 0.1 * g * g)
            w.assign_sub(1e-3 * g / (tf.sqrt(square) + 1e-7))
    return float(np.mean([loss(validation) for _ in range(5)]))


losses = np.array([final_loss(seed) for seed in range(a.seeds)])
low, median, high = np.percentile(losses, [25, 50, 75])
print(f"median {median:.3f}, quartiles {low:.3f} to {high:.3f}, {np.sum(losses > 1)} of {len(losses)} above 1")
