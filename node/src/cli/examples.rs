//! Examples in `--help`: every verb that does something shows one. A verb of a family (`group add`) without its own takes the lines
//! of its family's that call it, so that each is written once.

use clap::Command;

/// The same command line, with an example for each verb that has none of its own.
pub(super) fn handed_down(command: Command) -> Command {
    let name = command.get_name().to_owned();
    hand_down(command, &name, "")
}

fn hand_down(command: Command, line: &str, of_family: &str) -> Command {
    let own = command.get_after_help().map(ToString::to_string);
    let is_family = command.has_subcommands();
    let command = match &own {
        None if !is_family => {
            let lines = calls(of_family, line);
            if lines.is_empty() { command } else { command.after_help(format!("EXAMPLE:\n{}", lines.join("\n"))) }
        }
        _ => command,
    };
    let examples = own.unwrap_or_default();
    command.mut_subcommands(|verb| {
        let line = format!("{line} {}", verb.get_name());
        hand_down(verb, &line, &examples)
    })
}

/// The examples that call a verb, with the lines on which they go on.
fn calls<'a>(examples: &'a str, line: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut goes_on = false;
    for example in examples.lines() {
        let calls = example.starts_with(' ')
            && example.split(';').any(|call| {
                let rest = call.trim_start().strip_prefix(line);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            });
        if calls || goes_on {
            found.push(example);
            goes_on = example.ends_with('\\');
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn leaves(command: &Command, line: &str, lacking: &mut Vec<String>) -> usize {
        if !command.has_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            if calls(&help, line).is_empty() && !command.is_hide_set() {
                lacking.push(line.to_owned());
            }
            return 1;
        }
        let verbs = command.get_subcommands();
        verbs.map(|verb| leaves(verb, &format!("{line} {}", verb.get_name()), lacking)).sum()
    }

    #[test]
    fn every_verb_shows_an_example_that_calls_it() {
        let command = handed_down(super::super::Cli::command());
        let mut lacking = Vec::new();
        let seen = leaves(&command, "upswarm", &mut lacking);
        assert!(seen > 60, "{seen} verbs");
        assert!(lacking.is_empty(), "no example in --help of: {}", lacking.join(", "));
    }

    /// An example that the command line would not take helps nobody.
    #[test]
    fn every_example_is_a_call_that_is_understood() {
        fn check(command: &Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines = help.replace("\\\n      ", "");
            for line in
                lines.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| line.starts_with("upswarm "))
            {
                for call in line.split("; ").filter(|call| call.starts_with("upswarm ")) {
                    // Remarks stand behind a gap; what a shell would do with the output does not concern the verb.
                    let words = call.split(" > ").next().and_then(|call| call.split(" | ").next()).unwrap_or_default();
                    let words: Vec<&str> = words.split("  ").take(1).collect();
                    let words = words.concat();
                    let words = shell_words(&words);
                    if let Err(error) = super::super::Cli::command().try_get_matches_from(&words) {
                        use clap::error::ErrorKind as K;
                        // Placeholders such as KEY are no keys.
                        assert!(matches!(error.kind(), K::ValueValidation), "{words:?}: {error}");
                    }
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&handed_down(super::super::Cli::command()));
    }

    fn shell_words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        for c in line.chars() {
            match (c, quote) {
                ('"' | '\'', None) => quote = Some(c),
                (c, Some(open)) if c == open => quote = None,
                (' ', None) => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
                (c, _) => word.push(c),
            }
        }
        words.extend((!word.is_empty()).then_some(word));
        words
    }
}
