"""Writes the golden files of this folder (python -m pip install librosa; then run it here).

Numbers are float32, little-endian. tests/librosa.rs compares them.
"""
import numpy as np
import librosa

RATE, WINDOW, HOP, BANDS = 8000, 512, 128, 40
t = np.arange(4096) / RATE
signal = (0.4 * np.sin(2 * np.pi * (200 * t + 900 * t * t)) * np.exp(-2 * t)
          + 0.05 * np.sin(2 * np.pi * 3100 * t)).astype(np.float32)

def save(name, values):
    np.ascontiguousarray(values).astype("<f4").tofile(f"{name}.f32")

save("signal", signal)
save("mel-8000-512-40", librosa.filters.mel(sr=RATE, n_fft=WINDOW, n_mels=BANDS))
save("mel-22050-512-32-50-8000", librosa.filters.mel(sr=22050, n_fft=512, n_mels=32, fmin=50, fmax=8000))
frames = librosa.stft(signal, n_fft=WINDOW, hop_length=HOP)
save("stft-real", frames.T.real)
save("stft-imag", frames.T.imag)
changed = frames * np.linspace(1, 0, frames.shape[0])[:, None] * np.exp(1j * 0.3)
save("istft-of-changed", librosa.istft(changed, hop_length=HOP, length=4096))
power = librosa.feature.melspectrogram(y=signal, sr=RATE, n_fft=WINDOW, hop_length=HOP, n_mels=BANDS)
save("log-mel", librosa.power_to_db(power, ref=1.0, amin=1e-6, top_db=None))

def splitmix(seed, n):
    """n numbers in [0, 1) of splitmix64."""
    mask, numbers = (1 << 64) - 1, []
    for _ in range(n):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append(((z ^ (z >> 31)) >> 40) / (1 << 24))
    return np.array(numbers)

# librosa's `griffinlim`, step by step in float64 because it takes no phases to start with.
magnitudes = np.abs(frames).astype(np.float64)
phases = splitmix(7, magnitudes.size).reshape(magnitudes.T.shape).T * 2 * np.pi
angles, before = magnitudes * np.exp(1j * phases), 0
for _ in range(4):
    rebuilt = librosa.stft(librosa.istft(angles, hop_length=HOP, length=4096), n_fft=WINDOW, hop_length=HOP)
    moved = rebuilt - 0.99 / 1.99 * before
    angles, before = magnitudes * moved / np.abs(moved), rebuilt
save("griffin-lim-4", librosa.istft(angles, hop_length=HOP, length=4096))
