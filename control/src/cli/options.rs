//! `--BEHAVIOR-OPTION` flags, made from the one table of behaviors.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Command};
use fracas_dataplane::behavior::KINDS;

/// Behavior → option → value, as given.
pub type Options = BTreeMap<String, BTreeMap<String, String>>;

/// Every flag: its behavior, its option, and its id, such as `delay-time`.
fn flags() -> impl Iterator<Item = (&'static str, &'static fracas_dataplane::behavior::OptionSpec, String)> {
    let built = KINDS.iter().filter(|kind| kind.built);
    built.flat_map(|kind| {
        kind.options
            .iter()
            .map(|option| (kind.name, option, format!("{}-{}", kind.name, option.name).replace('_', "-")))
    })
}

/// The options of behaviors on a command line; flatten it.
#[derive(Debug, Default)]
pub struct BehaviorOptions(pub Options);

impl clap::FromArgMatches for BehaviorOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<BehaviorOptions, clap::Error> {
        let mut options = Options::new();
        for (behavior, option, id) in flags() {
            if let Some(value) = matches.get_one::<String>(&id) {
                options.entry(behavior.to_owned()).or_default().insert(option.name.to_owned(), value.clone());
            }
        }
        Ok(BehaviorOptions(options))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = clap::FromArgMatches::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for BehaviorOptions {
    fn augment_args(command: Command) -> Command {
        let defined = |command: &Command, id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
        flags().fold(command, |command, (behavior, option, id)| {
            if defined(&command, &id) {
                return command;
            }
            let default = if option.default.is_empty() {
                String::new()
            } else {
                format!(" [default: {}]", option.default)
            };
            let flag = Arg::new(id.clone())
                .long(id)
                // A time below 0 is answered as a time, not as a flag.
                .allow_hyphen_values(true)
                .value_name(option.kind.describe())
                .help(format!("{}{default}", option.doc))
                .help_heading(format!("Options of {behavior}"));
            command.arg(flag)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        BehaviorOptions::augment_args(command)
    }
}
