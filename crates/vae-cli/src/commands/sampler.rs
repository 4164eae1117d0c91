//! Which distribution a command draws latents from.

use std::str::FromStr;

use anyhow::Result;
use vae_model::{LatentSource, Sampler, SamplerKind};
use vae_run::{FoundSamplers, Session};

use crate::output::say;

/// The distribution of `--sampler`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The model's own prior.
    Prior,
    /// A sampler of `vae fit-sampler`.
    Fitted(SamplerKind),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "prior" {
            return Ok(Self::Prior);
        }
        let kind = text.parse().map(Self::Fitted);
        kind.map_err(|problem: String| format!("{problem}, or prior"))
    }
}

/// The sampler that was chosen; `None` for the prior.
pub(super) fn open(session: &Session, choice: Choice) -> Result<Option<Sampler>> {
    match choice {
        Choice::Prior => Ok(None),
        Choice::Fitted(kind) => Ok(Some(session.sampler(kind)?.0)),
    }
}

/// The best sampler that was fitted to these weights, if any is better than the prior, and says so.
pub(super) fn best(session: &Session) -> Result<Option<Sampler>> {
    let found = session.find_samplers()?;
    let Some(best) = found.best() else {
        say_unused(&found);
        return Ok(None);
    };
    let kind = best.config.kind();
    let log_prob = best.record.log_prob.unwrap_or(f64::NAN);
    let prior = match best.record.prior_log_prob {
        Some(prior) => format!(", that of the prior {prior:.2}"),
        None => String::new(),
    };
    say!(
        "latents of the sampler {kind} ({}), mean log-likelihood {log_prob:.2} nats on validation images{prior}; --sampler prior \
         draws from the prior",
        best.config
    );
    Ok(Some(session.sampler(kind)?.0))
}

/// Says why fitted samplers are not taken.
fn say_unused(found: &FoundSamplers) {
    let names = |found: &[vae_run::FoundSampler]| {
        let names: Vec<&str> = found
            .iter()
            .map(|found| found.config.kind().name())
            .collect();
        names.join(", ")
    };
    if !found.usable.is_empty() {
        say!(
            "latents of the prior; also fitted: {}, which --sampler names",
            names(&found.usable)
        );
    } else if !found.others.is_empty() {
        say!(
            "latents of the prior: {} were fitted to the latents of another checkpoint; `vae fit-sampler` fits them anew",
            names(&found.others)
        );
    }
}

/// The source of latents.
pub(super) fn source(sampler: Option<&Sampler>, temperature: f64) -> LatentSource<'_> {
    match sampler {
        Some(sampler) => LatentSource::Sampler {
            sampler,
            temperature,
        },
        None => LatentSource::Prior { temperature },
    }
}
