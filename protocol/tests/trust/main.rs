//! The verifier under attack.

#[path = "../common/mod.rs"]
mod common;

mod admit;
mod attacks;
mod certificates;
mod clocks;
mod content;
mod ed25519;
mod golden;
mod groups;
mod keys;
mod mutation;
mod pages;
mod properties;
mod repositories;
mod restart;
mod rules;
mod workflow;
