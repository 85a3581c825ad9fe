//! The `upswarm` program: office node, branch cache, coordinator and command line.

mod apart;
mod aside;
mod cli;
mod clock;
mod config;
mod coordinator;
mod demo;
mod driver;
mod host;
mod installer;
mod inventory;
mod journal;
mod keys;
mod limiter;
mod local;
mod machine;
mod origin;
mod release_file;
mod seal;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
