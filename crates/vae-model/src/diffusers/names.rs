//! Names of tensors in diffusers, in the original code and here.

use std::collections::BTreeMap;

use crate::network::AutoencoderTinyConfig;

/// The codebook of a `VQModel`, and here.
pub(super) const THEIR_CODES: &str = "quantize.embedding.weight";
pub(super) const OUR_CODES: &str = "posterior.codebooks";

/// What precedes the names of an autoencoder's tensors in a file; `None` if there is no autoencoder.
pub(super) fn prefix(shapes: &BTreeMap<String, Vec<i64>>) -> Option<String> {
    const FIRST: &str = "encoder.conv_in.weight";
    let with = |part: &str| {
        let start = part.strip_suffix(FIRST)?;
        let stages = [
            "encoder.down_blocks.0.resnets.0.conv1.weight",
            "encoder.down.0.block.0.conv1.weight",
        ];
        let is_one = stages
            .iter()
            .any(|stage| shapes.contains_key(&format!("{start}{stage}")));
        is_one.then(|| start.to_owned())
    };
    shapes.keys().find_map(|name| with(name))
}

/// The variables here by the names of the autoencoder's tensors.
pub(super) fn names(
    shapes: &BTreeMap<String, Vec<i64>>,
    prefix: &str,
) -> Result<BTreeMap<String, String>, String> {
    let own: Vec<(&str, &String)> = shapes
        .keys()
        .filter_map(|name| Some((name.strip_prefix(prefix)?, name)))
        .filter(|(name, _)| {
            let first = name.split('.').next().unwrap_or_default();
            ["encoder", "decoder", "quant_conv", "post_quant_conv"].contains(&first)
                || *name == THEIR_CODES
        })
        .collect();
    let stage = |name: &&str| {
        let mut parts = name.split('.').skip(1);
        let is_stage = ["down_blocks", "down"].contains(&parts.next()?);
        parts.next()?.parse::<usize>().ok().filter(|_| is_stage)
    };
    let n_stages = own
        .iter()
        .filter_map(|(name, _)| stage(name))
        .max()
        .map_or(0, |last| last + 1);
    own.into_iter()
        .map(|(name, whole)| match ours(name, n_stages) {
            Some(ours) => Ok((whole.clone(), ours)),
            None => Err(format!(
                "{whole} belongs to no part of the usual autoencoder (attention within stages and other blocks cannot \
                 be read)"
            )),
        })
        .collect()
}

/// The variable here for a tensor by its name in diffusers or in the original code.
pub(super) fn ours(theirs: &str, n_stages: usize) -> Option<String> {
    if theirs == THEIR_CODES {
        return Some(OUR_CODES.to_owned());
    }
    let parts: Vec<&str> = theirs.split('.').collect();
    let (&what, path) = parts.split_last()?;
    let reversed = |i: &str| {
        Some(
            n_stages
                .checked_sub(1)?
                .checked_sub(i.parse().ok()?)?
                .to_string(),
        )
    };
    let name = match path {
        ["quant_conv"] => "encoder.quant".to_owned(),
        ["post_quant_conv"] => "decoder.quant".to_owned(),
        ["encoder", "conv_in"] => "encoder.conv".to_owned(),
        ["decoder", "conv_in"] => "decoder.hidden".to_owned(),
        ["encoder", "conv_out"] => "encoder.posterior".to_owned(),
        ["decoder", "conv_out"] => "decoder.likelihood".to_owned(),
        [side, "conv_norm_out" | "norm_out"] => format!("{side}.norm"),
        [side, "mid_block", "resnets", i, layer] => {
            format!("{side}.middle.block.{i}.{}", of_block(layer)?)
        }
        [side, "mid", block @ ("block_1" | "block_2"), layer] => {
            let i = if *block == "block_1" { 0 } else { 1 };
            format!("{side}.middle.block.{i}.{}", of_block(layer)?)
        }
        [side, "mid_block", "attentions", "0", part @ ..] | [side, "mid", "attn_1", part @ ..] => {
            let part = match part {
                ["group_norm" | "norm"] => "norm",
                ["to_q" | "query" | "q"] => "query",
                ["to_k" | "key" | "k"] => "key",
                ["to_v" | "value" | "v"] => "value",
                ["to_out", "0"] | ["proj_attn" | "proj_out"] => "out",
                _ => return None,
            };
            format!("{side}.middle.attention.{part}")
        }
        [side, "down_blocks" | "up_blocks", i, "resnets", j, layer]
        | [side @ "encoder", "down", i, "block", j, layer] => {
            format!("{side}.{i}.block.{j}.{}", of_block(layer)?)
        }
        // The original code counts the decoder's stages from the image inwards.
        [side @ "decoder", "up", i, "block", j, layer] => {
            format!("{side}.{}.block.{j}.{}", reversed(i)?, of_block(layer)?)
        }
        [side, "down_blocks", i, "downsamplers", "0", "conv"]
        | [side, "down", i, "downsample", "conv"] => format!("{side}.{i}.down"),
        [side, "up_blocks", i, "upsamplers", "0", "conv"] => format!("{side}.{i}.up"),
        [side, "up", i, "upsample", "conv"] => format!("{side}.{}.up", reversed(i)?),
        _ => return None,
    };
    Some(format!("{name}.{what}"))
}

fn of_block(layer: &str) -> Option<&'static str> {
    Some(match layer {
        "norm1" => "norm.0",
        "conv1" => "conv.0",
        "norm2" => "norm.1",
        "conv2" => "conv.1",
        "conv_shortcut" | "nin_shortcut" => "shortcut",
        _ => return None,
    })
}

/// diffusers' name of a variable here.
pub(super) fn theirs(ours: &str) -> Option<String> {
    if ours == OUR_CODES {
        return Some(THEIR_CODES.to_owned());
    }
    let parts: Vec<&str> = ours.split('.').collect();
    let (&what, path) = parts.split_last()?;
    let of_block = |layer: &[&str]| {
        Some(match layer {
            ["norm", "0"] => "norm1",
            ["conv", "0"] => "conv1",
            ["norm", "1"] => "norm2",
            ["conv", "1"] => "conv2",
            ["shortcut"] => "conv_shortcut",
            _ => return None,
        })
    };
    let name = match path {
        ["encoder", "quant"] => "quant_conv".to_owned(),
        ["decoder", "quant"] => "post_quant_conv".to_owned(),
        ["encoder", "conv"] => "encoder.conv_in".to_owned(),
        ["decoder", "hidden"] => "decoder.conv_in".to_owned(),
        ["encoder", "posterior"] => "encoder.conv_out".to_owned(),
        ["decoder", "likelihood"] => "decoder.conv_out".to_owned(),
        [side, "norm"] => format!("{side}.conv_norm_out"),
        [side, "middle", "block", i, layer @ ..] => {
            format!("{side}.mid_block.resnets.{i}.{}", of_block(layer)?)
        }
        [side, "middle", "attention", part] => {
            let part = match *part {
                "norm" => "group_norm",
                "query" => "to_q",
                "key" => "to_k",
                "value" => "to_v",
                "out" => "to_out.0",
                _ => return None,
            };
            format!("{side}.mid_block.attentions.0.{part}")
        }
        [side, i, "block", j, layer @ ..] => {
            let stages = if *side == "encoder" {
                "down_blocks"
            } else {
                "up_blocks"
            };
            format!("{side}.{stages}.{i}.resnets.{j}.{}", of_block(layer)?)
        }
        [side, i, "down"] => format!("{side}.down_blocks.{i}.downsamplers.0.conv"),
        [side, i, "up"] => format!("{side}.up_blocks.{i}.upsamplers.0.conv"),
        _ => return None,
    };
    Some(format!("{name}.{what}"))
}

/// diffusers' names of the layers of an `AutoencoderTiny`, places in a sequence, with those here.
pub(super) fn tiny_names(config: &AutoencoderTinyConfig) -> Vec<(String, String)> {
    let mut named = Vec::new();
    let block = |named: &mut Vec<_>, side: &str, place: usize, i: usize, j: usize| {
        for k in 0..3 {
            named.push((
                // Activations lie between the convolutions.
                format!("{side}.layers.{place}.conv.{}", 2 * k),
                format!("{side}.{i}.block.{j}.conv.{k}"),
            ));
        }
    };
    let mut place = 0;
    for (i, &n) in config.encoder_blocks.iter().enumerate() {
        named.push((
            format!("encoder.layers.{place}"),
            format!("encoder.{i}.conv"),
        ));
        place += 1;
        for j in 0..n {
            block(&mut named, "encoder", place, i, j);
            place += 1;
        }
    }
    named.push((
        format!("encoder.layers.{place}"),
        "encoder.posterior".to_owned(),
    ));
    named.push(("decoder.layers.0".to_owned(), "decoder.hidden".to_owned()));
    place = 2; // After the activation.
    for (i, &n) in config.decoder_blocks.iter().enumerate() {
        for j in 0..n {
            block(&mut named, "decoder", place, i, j);
            place += 1;
        }
        let ours = match i + 1 == config.decoder_blocks.len() {
            true => "decoder.likelihood".to_owned(),
            false => {
                place += 1; // The upsampling.
                format!("decoder.{i}.conv")
            }
        };
        named.push((format!("decoder.layers.{place}"), ours));
        place += 1;
    }
    named
}
