//! Steps that are left out because their gradient is far too large (Child 2021, <https://arxiv.org/abs/2011.10650>, §4.1),
//! so that they cannot stop a run for ever.

use tch::{Device, Kind, Tensor};

/// The number of steps after which it is decided whether too many were skipped.
const WINDOW: f64 = 100.0;

/// More skipped steps of a window than this are too many.
const MOST_SKIPPED: f64 = 50.0;

/// What the bound is then multiplied by.
const RELAXATION: f64 = 2.0;

/// What became of a step whose gradient was judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Judged {
    /// The weights are updated.
    Taken,
    /// Nothing changes but the counts.
    Skipped(Skipped),
}

/// A step that was skipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Skipped {
    /// The norm of its gradient.
    pub norm: f64,
    /// The bound that it exceeded.
    pub bound: f64,
    /// The number of steps skipped so far.
    pub n_skipped: u64,
    /// What follows for the next steps.
    pub consequence: Consequence,
}

/// What a skipped step leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Consequence {
    /// Nothing.
    None,
    /// More than half of the last 100 steps were skipped, most for a norm that was merely large: the bound is this from now on.
    Relaxed(f64),
    /// More than half of the last 100 steps had a NaN or infinite gradient, which no bound lets through.
    Hopeless,
}

/// The bound on the gradient's norm, with what was skipped so far.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Skipping {
    /// That of the config.
    first_bound: f64,
    counts: Counts,
}

/// Everything that a step changes, all of them whole numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    relaxations: f64,
    skipped: f64,
    /// Steps, skipped ones, and those skipped for a NaN or infinite norm, since the window began.
    window: f64,
    window_skipped: f64,
    window_non_finite: f64,
}

impl Skipping {
    pub(crate) fn above(bound: f64) -> Self {
        Self {
            first_bound: bound,
            counts: Counts::default(),
        }
    }

    fn bound(&self) -> f64 {
        self.first_bound * RELAXATION.powf(self.counts.relaxations)
    }

    /// Judges the next step by the norm of its gradient.
    pub(crate) fn judge(&mut self, norm: f64) -> Judged {
        let bound = self.bound();
        let counts = &mut self.counts;
        let is_skipped = !norm.is_finite() || norm > bound;
        counts.window += 1.0;
        if is_skipped {
            counts.skipped += 1.0;
            counts.window_skipped += 1.0;
            counts.window_non_finite += f64::from(u8::from(!norm.is_finite()));
        }
        let consequence = match counts.window_skipped > MOST_SKIPPED {
            true if counts.window_non_finite > MOST_SKIPPED => Consequence::Hopeless,
            true => {
                counts.relaxations += 1.0;
                Consequence::Relaxed(bound * RELAXATION)
            }
            false => Consequence::None,
        };
        if consequence != Consequence::None || counts.window >= WINDOW {
            counts.window = 0.0;
            counts.window_skipped = 0.0;
            counts.window_non_finite = 0.0;
        }
        match is_skipped {
            false => Judged::Taken,
            true => Judged::Skipped(Skipped {
                norm,
                bound,
                n_skipped: counts.skipped as u64,
                consequence,
            }),
        }
    }

    /// Its counts, f32 `[5]` on the CPU, for a checkpoint: whole numbers, exact up to 2²⁴.
    pub(crate) fn state(&self) -> Tensor {
        let Counts {
            relaxations,
            skipped,
            window,
            window_skipped,
            window_non_finite,
        } = self.counts;
        Tensor::from_slice(&[
            relaxations,
            skipped,
            window,
            window_skipped,
            window_non_finite,
        ])
        .to_kind(Kind::Float)
    }

    /// Restores [`Self::state`]. Fails if it is not one.
    pub(crate) fn load_state(&mut self, state: &Tensor) -> Result<(), String> {
        let state = state.to_device(Device::Cpu).to_kind(Kind::Double);
        let numbers = Vec::<f64>::try_from(&state).unwrap_or_default();
        let is_count = |n: &f64| n.is_finite() && *n >= 0.0;
        let [
            relaxations,
            skipped,
            window,
            window_skipped,
            window_non_finite,
        ] = numbers[..]
        else {
            let size = state.size();
            return Err(format!("`skipped_steps` is {size:?}, [5] is needed"));
        };
        if !numbers.iter().all(is_count) {
            return Err("`skipped_steps` has numbers that are no counts".to_owned());
        }
        self.counts = Counts {
            relaxations,
            skipped,
            window,
            window_skipped,
            window_non_finite,
        };
        Ok(())
    }
}

impl Skipped {
    /// What a user should know of it: of the first step, then ever more rarely, and of every consequence.
    pub(crate) fn warning(&self, player: &str, step: u64) -> Option<String> {
        let Self {
            norm,
            bound,
            n_skipped,
            consequence,
        } = self;
        let key = match player {
            "model" => "training.clip.skip_above".to_owned(),
            player => format!("players.{player}.clip.skip_above"),
        };
        match consequence {
            Consequence::Relaxed(bound) => Some(format!(
                "step {step}: more than half of the last 100 steps were skipped, because their gradients were longer \
                 than {key}; it is {bound:.4e} from now on. A lower learning rate or a longer warm-up makes gradients \
                 shorter; if they are usually this long, a larger {key} would fit"
            )),
            Consequence::None if n_skipped.is_power_of_two() => {
                let of = match norm.is_finite() {
                    true => format!("its gradient has norm {norm:.4e}, above {key} = {bound:.4e}"),
                    false => format!("its gradient is {norm}"),
                };
                let so_far = match n_skipped {
                    1 => "no other step was skipped before".to_owned(),
                    n => format!("{n} steps were skipped so far"),
                };
                Some(format!(
                    "step {step} was skipped: {of}. The weights are as before it; {so_far}"
                ))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_taken(judged: Judged) -> bool {
        judged == Judged::Taken
    }

    #[test]
    fn a_long_or_infinite_gradient_is_skipped_and_counted() {
        let mut skipping = Skipping::above(10.0);
        let judged = [1.0, 10.0, 10.1, f64::NAN, f64::INFINITY, 3.0].map(|n| skipping.judge(n));
        let taken = judged.map(is_taken);
        assert_eq!(taken, [true, true, false, false, false, true]);
        let Judged::Skipped(last) = judged[4] else {
            panic!("it is infinite");
        };
        assert_eq!((last.n_skipped, last.bound), (3, 10.0));
        assert_eq!(last.consequence, Consequence::None);
    }

    #[test]
    fn no_gradient_however_long_stops_a_run_for_ever() {
        // The bound doubles after 51 skipped steps: from 1 to beyond 1000 ten times.
        let mut skipping = Skipping::above(1.0);
        let first = (0..10_000).find(|_| is_taken(skipping.judge(1000.0)));
        assert_eq!(first, Some(10 * 51));
        assert!(is_taken(skipping.judge(1000.0)));
        // A NaN is never let through; that there are too many is said after 51 of them.
        let mut skipping = Skipping::above(1.0);
        let judged: Vec<Judged> = (0..51).map(|_| skipping.judge(f64::NAN)).collect();
        let hopeless = |judged: &Judged| matches!(judged, Judged::Skipped(skipped) if skipped.consequence == Consequence::Hopeless);
        assert_eq!(judged.iter().position(hopeless), Some(50));
        // Half of the steps may be skipped for any time.
        let mut skipping = Skipping::above(1.0);
        for step in 0..10_000 {
            let norm = if step % 2 == 0 { 2.0 } else { 0.5 };
            assert_eq!(is_taken(skipping.judge(norm)), norm < 1.0);
        }
    }

    #[test]
    fn a_restored_state_goes_on_as_the_saved_one() {
        let norms = |i: u64| [0.5, 3.0, 9.0, f64::NAN][(i * i % 7 % 4) as usize];
        let mut skipping = Skipping::above(1.0);
        for i in 0..170 {
            skipping.judge(norms(i));
        }
        let mut restored = Skipping::above(1.0);
        restored.load_state(&skipping.state()).expect("a state");
        assert_eq!(restored, skipping);
        for i in 170..400 {
            let (found, wanted) = (restored.judge(norms(i)), skipping.judge(norms(i)));
            assert_eq!(is_taken(found), is_taken(wanted), "{i}");
        }
        assert_eq!(restored, skipping);
        assert!(
            restored
                .load_state(&Tensor::from_slice(&[1.0_f64]))
                .is_err()
        );
        let negative = Tensor::from_slice(&[0.0, -1.0, 0.0, 0.0, 0.0]);
        assert!(restored.load_state(&negative).is_err());
    }

    #[test]
    fn warnings_name_the_key_and_become_rare() {
        let mut skipping = Skipping::above(1.0);
        let mut warnings = Vec::new();
        for step in 1..=60 {
            if let Judged::Skipped(skipped) = skipping.judge(1e4) {
                warnings.extend(skipped.warning("model", step));
            }
        }
        // 1, 2, 4, 8, 16 and 32, then the relaxation.
        assert_eq!(warnings.len(), 7, "{warnings:?}");
        assert!(warnings[0].contains("training.clip.skip_above"));
        assert!(warnings[6].contains("from now on"));
    }
}
