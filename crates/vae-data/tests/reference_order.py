"""Derived seeds, epoch orders and binarized images from their documented definition, in plain Python.

Printed numbers are pinned in src/seed.rs, src/loader.rs and src/binarization.rs. Run: python3 reference_order.py
"""

MASK = (1 << 64) - 1


def splitmix64(state):
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def fnv1a(data):
    digest = 0xCBF29CE484222325
    for byte in data:
        digest = ((digest ^ byte) * 0x100000001B3) & MASK
    return digest


def derive_seed(seed, epoch, purpose):
    return splitmix64(splitmix64(splitmix64(fnv1a(purpose.encode())) ^ epoch) ^ seed)


def flips(epoch_seed, image):
    return splitmix64(epoch_seed ^ splitmix64(image)) >> 63 == 1


def chacha8_block(key, counter, nonce=0):
    """RFC 8439's block function with 8 rounds, a 64-bit counter and a 64-bit nonce."""
    words = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574]
    words += [int.from_bytes(key[i : i + 4], "little") for i in range(0, 32, 4)]
    words += [counter & 0xFFFFFFFF, counter >> 32, nonce & 0xFFFFFFFF, nonce >> 32]
    x = list(words)

    def quarter_round(a, b, c, d):
        for to, by, rotated, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[to] = (x[to] + x[by]) & 0xFFFFFFFF
            v = x[rotated] ^ x[to]
            x[rotated] = ((v << n) | (v >> (32 - n))) & 0xFFFFFFFF

    for _ in range(4):
        for i in range(4):
            quarter_round(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter_round(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return [(after + before) & 0xFFFFFFFF for after, before in zip(x, words)]


def shuffled_order(n_images, seed, epoch):
    key = derive_seed(seed, epoch, "order").to_bytes(8, "little") + bytes(24)

    def draws():
        counter = 0
        while True:
            block = chacha8_block(key, counter)
            yield from (block[i] | block[i + 1] << 32 for i in range(0, 16, 2))
            counter += 1

    numbers = draws()
    order = list(range(n_images))
    for i in range(n_images - 1, 0, -1):
        bound = i + 1
        product = next(numbers) * bound
        while product & MASK < 2**64 % bound:
            product = next(numbers) * bound
        j = product >> 64
        order[i], order[j] = order[j], order[i]
    return order


def binarized(image, pass_seed, position):
    key = pass_seed.to_bytes(8, "little") + bytes(24)

    def draws():
        counter = 0
        while True:
            for word in chacha8_block(key, counter, position):
                yield from word.to_bytes(4, "little")
            counter += 1

    coins = (coin for coin in draws() if coin != 255)
    return [255 if coin < byte else 0 for byte, coin in zip(image, coins)]


if __name__ == "__main__":
    # The published first bytes of ChaCha8 for key 0: this reference is itself right.
    first = b"".join(word.to_bytes(4, "little") for word in chacha8_block(bytes(32), 0))
    assert first.hex().startswith("3e00ef2f895f40d67f5bb8e81f09a5a1")
    for seed, epoch, purpose in [(0, 0, "order"), (0, 1, "order"), (1, 0, "order"), (0, 0, "noise")]:
        print(seed, epoch, purpose, hex(derive_seed(seed, epoch, purpose)))
    print(hex(derive_seed(MASK, MASK, "")))
    for seed, epoch in [(0, 0), (0, 1), (1, 0)]:
        print(seed, epoch, shuffled_order(12, seed, epoch))
    order = shuffled_order(60_000, 7, 3)
    print(order[:4], order[-4:], sum(position * image for position, image in enumerate(order)))
    for seed, epoch in [(0, 0), (0, 1), (1, 0)]:
        epoch_seed = derive_seed(seed, epoch, "flip")
        print(seed, epoch, "flipped", [image for image in range(16) if flips(epoch_seed, image)])
    for pass_seed, position in [
        (derive_seed(0, 0, "binarization"), 0),
        (derive_seed(0, 0, "binarization"), 1),
        (derive_seed(7, 3, "binarization"), 59_999),
        (derive_seed(0, 0, "fixed binarization"), 0),
    ]:
        few = "".join("01"[byte // 255] for byte in binarized([128] * 16, pass_seed, position))
        # Long enough for coins that are drawn again.
        many = binarized([i % 256 for i in range(2000)], pass_seed, position)
        print(hex(pass_seed), position, few, sum(i for i, byte in enumerate(many) if byte))
