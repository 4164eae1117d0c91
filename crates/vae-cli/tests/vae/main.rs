//! Tests of the binary `vae`, in one program: linking one for each file took longer than running most of them.

mod adversarial;
mod arrays;
mod cli;
mod codes;
mod common;
mod conditions;
mod data;
mod elsewhere;
mod eval;
mod explore;
mod export;
mod filesystems;
mod ladder;
mod latent_maps;
mod latents;
mod melodies;
mod outputs;
mod processes;
mod resume;
mod runs;
mod samplers;
mod sound;
mod texts;
mod tokenizers;
