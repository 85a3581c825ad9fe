//! Paths of a command line, made absolute where they enter: programs that a verb starts, and files that it writes for later, are
//! read in other directories. Owns that one rule for every verb; never looks whether anything is there.

use std::any::TypeId;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Arg, Command};

/// The same command line, with every path in it made absolute.
pub(super) fn absolute(command: Command) -> Command {
    command.mut_args(absolute_arg).mut_subcommands(absolute)
}

fn absolute_arg(arg: Arg) -> Arg {
    if arg.get_value_parser().type_id() != TypeId::of::<PathBuf>() {
        return arg;
    }
    arg.value_parser(OsStringValueParser::new().try_map(std::path::absolute))
}
