//! Sound of items: that of spectrograms by the algorithm of Griffin & Lim, that of melodies by a synthesizer, that of samples as it
//! is.

use std::path::Path;

use tch::{Device, Kind, Tensor};
use vae_base::write_whole;
use vae_model::{ItemKind, ItemSpec};
use vae_run::RunError;
use vae_sound::{GriffinLim, LogMel, wav};

use crate::ViewError;
use crate::melody::{RATE, heard};

/// Seconds of silence between sounds that follow one another.
const PAUSE: f64 = 0.15;

/// The loudest sample of sound from a spectrogram, whose phases may add up to more than 1.
const PEAK: f32 = 0.99;

/// Samples in `[-1, 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sound {
    /// Samples a second.
    pub rate: u32,
    /// The samples of each channel, all of the same number.
    pub channels: Vec<Vec<f32>>,
}

impl Sound {
    /// The bytes of a WAV file.
    #[must_use]
    pub fn to_wav(&self) -> Vec<u8> {
        let samples = wav::interleaved(&self.channels.concat(), self.channels.len());
        wav::encode(&samples, self.channels.len() as u16, self.rate)
    }

    /// Writes a WAV file; it appears under its name only when it is whole.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn save(&self, path: &Path) -> Result<(), ViewError> {
        Ok(write_whole(path, &self.to_wav()).map_err(RunError::io(path))?)
    }

    /// Sounds of one kind one after another, with a short pause between them; none of none.
    #[must_use]
    pub fn joined<'a>(sounds: impl IntoIterator<Item = &'a Sound>) -> Option<Sound> {
        let mut sounds = sounds.into_iter();
        let mut joined = sounds.next()?.clone();
        let pause = vec![0.0; (PAUSE * f64::from(joined.rate)) as usize];
        for sound in sounds {
            for (channel, more) in joined.channels.iter_mut().zip(&sound.channels) {
                channel.extend_from_slice(&pause);
                channel.extend_from_slice(more);
            }
        }
        Some(joined)
    }
}

/// The sounds of items `[N, C, H, W]` as a model decodes them ([`crate::as_decoded`] converts those of a data set), of a
/// `spec` that has sound: samples, spectrograms, or melodies, which a simple synthesizer plays. The same items give the same
/// sounds.
///
/// # Errors
/// The items are no sound, or of another shape.
pub fn sounds(spec: &ItemSpec, items: &Tensor) -> Result<Vec<Sound>, ViewError> {
    if let Some(melody) = &spec.melody {
        let all = heard(melody, items)?.into_iter();
        let sound = |samples| Sound {
            rate: RATE,
            channels: vec![samples],
        };
        return Ok(all.map(sound).collect());
    }
    let Some(rate) = spec.rate() else {
        return Err(ViewError::Plot("these items are no sound".to_owned()));
    };
    let items = items
        .to_device(Device::Cpu)
        .to_kind(Kind::Float)
        .contiguous();
    let n_channels = spec.map().channels.max(1) as usize;
    let log_mel = spec
        .spectrogram
        .map(|transform| LogMel::new(transform, spec.shape[1] as usize));
    (0..items.size()[0])
        .map(|i| {
            let values = Vec::<f32>::try_from(items.get(i).view(-1))?;
            let each = values.chunks_exact((values.len() / n_channels).max(1));
            let mut channels: Vec<Vec<f32>> = match &log_mel {
                Some(log_mel) => each
                    .map(|map| log_mel.sound(map, &GriffinLim::default()))
                    .collect(),
                None => each.map(<[f32]>::to_vec).collect(),
            };
            let samples = || channels.iter().flatten();
            let loudest = samples().fold(0.0_f32, |loudest, sample| loudest.max(sample.abs()));
            if loudest > PEAK {
                let scale = PEAK / loudest;
                channels
                    .iter_mut()
                    .flatten()
                    .for_each(|sample| *sample *= scale);
            }
            Ok(Sound { rate, channels })
        })
        .collect()
}

/// Spectrograms in dB `[N, C, bands, frames]` of items `[N, C, 1, T]` of sound, to look at, and their floor in dB.
pub(crate) fn shown_spectrograms(
    spec: &ItemSpec,
    items: &Tensor,
) -> Result<(Tensor, f64), ViewError> {
    const N_BANDS: usize = 64;
    const MOST_FRAMES: usize = 128;
    const FLOOR: f64 = -50.0;
    let rate = match spec.kind {
        ItemKind::Sound { rate } => rate,
        _ => 1,
    };
    let (n, channels, _, n_samples) = items.size4()?;
    // About 30 ms, so that no band lies between two frequencies.
    let window = (rate / 32).next_power_of_two().clamp(64, 1 << 14);
    let hop = (n_samples as usize)
        .div_ceil(MOST_FRAMES)
        .max(window as usize / 4);
    let n_frames = (n_samples as usize / hop).max(1);
    let transform = vae_model::Spectrogram {
        rate,
        window,
        hop: hop as u32,
        low: 0.0,
        high: f64::from(rate) / 2.0,
        floor: FLOOR,
    };
    let log_mel = LogMel::new(transform, N_BANDS);
    let values = Vec::<f32>::try_from(items.contiguous().view(-1))?;
    let maps: Vec<f32> = values
        .chunks_exact((n_samples as usize).max(1))
        .flat_map(|samples| log_mel.spectrogram(samples, n_frames))
        .collect();
    let maps = Tensor::from_slice(&maps).view([n, channels, N_BANDS as i64, n_frames as i64]);
    Ok((maps, FLOOR))
}

#[cfg(test)]
mod tests {
    use vae_model::Spectrogram;

    use super::*;

    fn tone(n: usize) -> Vec<f32> {
        (0..n).map(|i| 0.5 * (i as f32 * 0.3).sin()).collect()
    }

    #[test]
    fn samples_are_heard_as_they_are() {
        let spec = ItemSpec::new(ItemKind::Sound { rate: 8000 }, vec![2, 3]);
        let items = Tensor::from_slice(&[0.1_f32, 0.2, 0.3, -0.1, -0.2, -0.3]).view([1, 2, 1, 3]);
        let sounds = sounds(&spec, &items).unwrap();
        assert_eq!(sounds[0].channels, [[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]]);
        let file = sounds[0].to_wav();
        assert_eq!((file[22], file.len()), (2, 44 + 12));
        let both = Sound::joined([&sounds[0], &sounds[0]]).unwrap();
        assert_eq!(both.channels[1].len(), 3 + 1200 + 3);
        assert!(Sound::joined([]).is_none());
    }

    #[test]
    fn a_spectrogram_sounds_like_what_it_is_of() {
        let transform = Spectrogram {
            rate: 8000,
            window: 512,
            hop: 128,
            low: 0.0,
            high: 4000.0,
            floor: -50.0,
        };
        let spec = ItemSpec {
            spectrogram: Some(transform),
            ..ItemSpec::new(ItemKind::Array, vec![1, 40, 32])
        };
        let map = LogMel::new(transform, 40).spectrogram(&tone(4096), 32);
        let items = Tensor::from_slice(&map).view([1, 1, 40, 32]);
        let found = &sounds(&spec, &items).unwrap()[0];
        assert_eq!(found.channels[0].len(), 4096);
        let crossings = |samples: &[f32]| {
            samples
                .windows(2)
                .filter(|two| two[0] < 0.0 && two[1] >= 0.0)
                .count()
        };
        let (found, wanted) = (crossings(&found.channels[0]), crossings(&tone(4096)));
        assert!(found.abs_diff(wanted) < 8, "{found} {wanted}");
        let plain = ItemSpec::new(ItemKind::Array, vec![1, 40, 32]);
        assert!(sounds(&plain, &items).is_err());
    }
}
