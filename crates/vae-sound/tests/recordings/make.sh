#!/bin/sh
# Makes the recordings of this folder, with sox, lame, flac and oggenc: half a second of a sweep beside a tone.
set -e
sox -n -r 22050 -b 16 -c 2 sweep.wav synth 0.5 sine 200-3000 synth 0.5 sine mix 700 gain -6 fade 0.02 0.5 0.02
flac -s -f sweep.wav -o sweep.flac
lame --quiet -b 96 sweep.wav sweep.mp3
oggenc -Q -q 5 sweep.wav -o sweep.ogg
sox sweep.wav -r 8000 -c 1 -e ms-adpcm adpcm.wav
sox sweep.wav -e floating-point -b 32 -r 8000 -c 1 float.wav
sox sweep.wav -b 24 -r 16000 -c 1 bits24.wav
