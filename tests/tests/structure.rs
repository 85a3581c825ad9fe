//! The order of our modules: none of two names the other in a circle, those of the program have one order, and only `sys` and
//! its like know the operating system. Read from the text of the sources; what is compiled for tests only is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the program, each naming only modules above it in this list.
const ORDER: [&str; 29] = [
    "sys",
    "error",
    "units",
    "text",
    "byte_range",
    "web",
    "clock",
    "limiter",
    "keys",
    "encrypt",
    "background",
    "door",
    "upstream",
    "apt_setup",
    "inventory",
    "machine",
    "config",
    "installer",
    "release_file",
    "privileged",
    "net",
    "local_api",
    "update_point",
    "agent",
    "api",
    "coordinator",
    "signing",
    "console",
    "cli",
];

/// Circles that are still to be undone.
const OPEN: [&str; 0] = [];

/// Where the operating system may be named.
const KNOW_THE_SYSTEM: [&str; 2] = ["node/src/sys/", "cache/src/os/"];

const CRATES: [&str; 5] = ["protocol", "cache", "node", "simulations", "tests"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// A word or a sign of a source text; comments, strings and numbers are none.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Path,
    Sign(char),
}

fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let (mut tokens, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            while i < chars.len() {
                if chars[i] == '/' && at(i + 1) == '*' {
                    (depth, i) = (depth + 1, i + 2);
                } else if chars[i] == '*' && at(i + 1) == '/' {
                    (depth, i) = (depth - 1, i + 2);
                } else {
                    i += 1;
                }
                if depth == 0 {
                    break;
                }
            }
        } else if c == '"' {
            i += 1;
            while i < chars.len() && chars[i] != '"' {
                i += if chars[i] == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' {
            // A character, or else a lifetime, whose name is then read as a word.
            let end = if at(i + 1) == '\\' { (i + 3..chars.len()).find(|end| chars[*end] == '\'') } else { None };
            i = end.map_or(if at(i + 2) == '\'' { i + 3 } else { i + 1 }, |end| end + 1);
        } else if c.is_alphabetic() || c == '_' {
            let start = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            let word: String = chars[start..i].iter().collect();
            let hashes = (i..chars.len()).take_while(|index| chars[*index] == '#').count();
            if matches!(&*word, "r" | "br" | "cr") && at(i + hashes) == '"' {
                i += hashes + 1;
                let ends = |from: usize| at(from) == '"' && (1..=hashes).all(|more| at(from + more) == '#');
                while i < chars.len() && !ends(i) {
                    i += 1;
                }
                i += 1 + hashes;
            } else {
                tokens.push(Token::Word(word));
            }
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push(Token::Path);
            i += 2;
        } else {
            if !c.is_whitespace() && !c.is_numeric() {
                tokens.push(Token::Sign(c));
            }
            i += 1;
        }
    }
    tokens
}

fn is_word(token: Option<&Token>, word: &str) -> bool {
    matches!(token, Some(Token::Word(found)) if found == word)
}

/// Takes away inline modules that are compiled for tests only, and returns the names of those that lie in files of their own.
fn without_tests(tokens: Vec<Token>) -> (Vec<Token>, BTreeSet<String>) {
    let mark = [Token::Sign('#'), Token::Sign('['), Token::Word("cfg".into()), Token::Sign('(')];
    let (mut kept, mut files, mut i) = (Vec::new(), BTreeSet::new(), 0);
    while i < tokens.len() {
        let is_test = tokens[i..].starts_with(&mark)
            && is_word(tokens.get(i + 4), "test")
            && tokens.get(i + 5) == Some(&Token::Sign(')'));
        // Whatever stands before the item's name: its visibility.
        let module = is_test.then(|| (i + 7..i + 13).find(|at| is_word(tokens.get(*at), "mod"))).flatten();
        let (Some(at), Some(Token::Word(name))) = (module, module.and_then(|at| tokens.get(at + 1))) else {
            kept.push(tokens[i].clone());
            i += 1;
            continue;
        };
        if tokens.get(at + 2) != Some(&Token::Sign('{')) {
            files.insert(name.clone());
            i = at + 3;
            continue;
        }
        let mut depth = 0;
        i = at + 2;
        while i < tokens.len() {
            depth += match tokens[i] {
                Token::Sign('{') => 1,
                Token::Sign('}') => -1,
                _ => 0,
            };
            i += 1;
            if depth == 0 {
                break;
            }
        }
    }
    (kept, files)
}

/// Every path that a text names, `use` declarations spelt out: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
fn paths(tokens: &[Token]) -> Vec<Vec<String>> {
    fn tree(tokens: &[Token], at: &mut usize, prefix: &[String], found: &mut Vec<Vec<String>>) {
        let mut path = prefix.to_vec();
        while let Some(token) = tokens.get(*at) {
            match token {
                Token::Word(word) if word == "as" => *at += 2,
                Token::Word(word) => {
                    path.push(word.clone());
                    *at += 1;
                }
                Token::Path => *at += 1,
                Token::Sign('*') => *at += 1,
                Token::Sign('{') => {
                    *at += 1;
                    loop {
                        tree(tokens, at, &path, found);
                        let more = tokens.get(*at) == Some(&Token::Sign(','));
                        *at += 1;
                        if !more {
                            return;
                        }
                    }
                }
                Token::Sign(_) => break,
            }
        }
        if path.len() > prefix.len() || tokens.get(*at - 1) != Some(&Token::Sign(',')) {
            found.push(path);
        }
    }
    let (mut found, mut i) = (Vec::new(), 0);
    while i < tokens.len() {
        if is_word(tokens.get(i), "use") && !matches!(tokens.get(i + 1), Some(Token::Sign('<' | '>'))) {
            i += 1;
            tree(tokens, &mut i, &[], &mut found);
        } else if let Token::Word(first) = &tokens[i]
            && tokens.get(i + 1) == Some(&Token::Path)
            && (i == 0 || tokens[i - 1] != Token::Path)
        {
            let mut path = vec![first.clone()];
            i += 1;
            while let (Some(Token::Path), Some(Token::Word(next))) = (tokens.get(i), tokens.get(i + 1)) {
                path.push(next.clone());
                i += 2;
            }
            found.push(path);
        } else {
            i += 1;
        }
    }
    found.retain(|path| !path.is_empty());
    found
}

/// A file of a crate: the path of its module, and the paths that its text names.
#[derive(Debug)]
struct File {
    module: Vec<String>,
    names: Vec<Vec<String>>,
}

/// The path of the module that a file below src holds.
fn module_of(path: &str) -> Vec<String> {
    let mut module: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| matches!(&**last, "mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

/// Every file of a crate, from (path below src, text), but those that are compiled for tests only.
fn files(sources: &[(&str, &str)]) -> Vec<File> {
    let mut read = Vec::new();
    let mut tests: BTreeSet<Vec<String>> = BTreeSet::new();
    for (path, text) in sources {
        let module = module_of(path);
        let (tokens, test_files) = without_tests(tokens(text));
        tests.extend(test_files.into_iter().map(|name| module.iter().cloned().chain([name]).collect()));
        read.push(File { module, names: paths(&tokens) });
    }
    read.retain(|file| !(1..=file.module.len()).any(|len| tests.contains(&file.module[..len])));
    read
}

/// Siblings that name each other: for each parent module, who names whom.
type Edges = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn edges(files: &[File]) -> Edges {
    let known: BTreeSet<&[String]> =
        files.iter().flat_map(|file| (1..=file.module.len()).map(|len| &file.module[..len])).collect();
    let mut edges = Edges::new();
    for file in files {
        let me = &file.module;
        for name in &file.names {
            let mut rest = &name[..];
            let mut target: Vec<String> = match rest.first().map(String::as_str) {
                Some("crate") => Vec::new(),
                Some("self") => me.clone(),
                Some("super") => me[..me.len().saturating_sub(1)].to_vec(),
                _ => continue,
            };
            rest = &rest[1..];
            while rest.first().is_some_and(|word| word == "super") {
                target.pop();
                rest = &rest[1..];
            }
            target.extend_from_slice(rest);
            while !target.is_empty() && !known.contains(&target[..]) {
                target.pop();
            }
            let common = me.iter().zip(&target).take_while(|(mine, theirs)| mine == theirs).count();
            if common < me.len() && common < target.len() {
                let level = if common == 0 { "src".to_owned() } else { me[..common].join("::") };
                let named = edges.entry(level).or_default().entry(me[common].clone()).or_default();
                named.insert(target[common].clone());
            }
        }
    }
    edges
}

/// The sets of two or more that can each be reached from each other, sorted.
fn circles(graph: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reached = |from: &String| {
        let (mut reached, mut ahead) = (BTreeSet::new(), vec![from]);
        while let Some(next) = ahead.pop() {
            for named in graph.get(next).into_iter().flatten() {
                if reached.insert(named.clone()) {
                    ahead.push(named);
                }
            }
        }
        reached
    };
    let reach: BTreeMap<&String, BTreeSet<String>> = graph.keys().map(|name| (name, reached(name))).collect();
    let mut found = BTreeSet::new();
    for (name, reached) in &reach {
        let circle: Vec<String> =
            reached.iter().filter(|other| reach.get(other).is_some_and(|back| back.contains(*name))).cloned().collect();
        if circle.len() > 1 {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

fn sources_below(dir: &Path) -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, &mut found);
    found.sort();
    let name = |path: &PathBuf| path.strip_prefix(dir).expect("below").to_string_lossy().into_owned();
    found.iter().map(|path| (name(path), fs::read_to_string(path).expect("a source"))).collect()
}

fn crate_files(name: &str) -> Vec<File> {
    let sources = sources_below(&root().join(name).join("src"));
    files(&sources.iter().map(|(path, text)| (&**path, &**text)).collect::<Vec<_>>())
}

#[test]
fn no_modules_name_each_other_in_a_circle() {
    let mut found = BTreeSet::new();
    for name in CRATES {
        for (level, graph) in edges(&crate_files(name)) {
            found.extend(circles(&graph).iter().map(|circle| format!("{name} {level}: {}", circle.join(" "))));
        }
    }
    let undone: Vec<&str> = OPEN.into_iter().filter(|circle| !found.contains(*circle)).collect();
    assert!(undone.is_empty(), "OPEN names circles that are no more: {undone:#?}");
    found.retain(|circle| !OPEN.contains(&circle.as_str()));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_modules_of_the_program_have_one_order() {
    let files = crate_files("node");
    let modules: BTreeSet<&str> = files.iter().filter_map(|file| file.module.first()).map(String::as_str).collect();
    assert_eq!(modules, ORDER.into_iter().collect(), "ORDER names the modules of node/src");
    let place = |name: &str| ORDER.iter().position(|known| *known == name);
    for (from, named) in edges(&files).remove("src").unwrap_or_default() {
        for to in named {
            assert!(place(&to) < place(&from), "{from} names {to}, which comes after it in ORDER");
        }
    }
}

/// What names an operating system in a text, each once.
fn system_names(tokens: &[Token]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in paths(tokens) {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        if matches!(words[0], "libc" | "nix" | "rustix")
            || matches!(words[..], ["std", "os", ..])
            || words.windows(2).any(|pair| pair == ["signal", "unix"])
            || words.iter().any(|word| matches!(*word, "UnixStream" | "UnixListener" | "UnixDatagram"))
        {
            found.insert(words.join("::"));
        }
    }
    found
}

#[test]
fn only_sys_and_its_like_know_the_operating_system() {
    for place in KNOW_THE_SYSTEM {
        assert!(root().join(place).is_dir(), "KNOW_THE_SYSTEM names {place}, which is no folder");
    }
    for name in ["protocol", "cache", "node", "simulations"] {
        let sources = sources_below(&root().join(name).join("src"));
        let sources: Vec<(&str, &str)> = sources.iter().map(|(path, text)| (&**path, &**text)).collect();
        let of_program: BTreeSet<Vec<String>> = files(&sources).into_iter().map(|file| file.module).collect();
        for (path, text) in sources {
            let may = KNOW_THE_SYSTEM.iter().any(|place| format!("{name}/src/{path}").starts_with(place));
            if !may && of_program.contains(&module_of(path)) {
                let named = system_names(&without_tests(tokens(text)).0);
                assert!(
                    named.is_empty(),
                    "{name}/src/{path} names {named:?}; what the system does differently is for sys"
                );
            }
        }
    }
}

#[test]
fn a_system_is_noticed_however_it_is_named() {
    for text in [
        "use std::os::unix::fs::PermissionsExt;",
        "use std::{io, os::fd::OwnedFd};",
        "fn f() { rustix::process::geteuid(); }",
        "let s = tokio::net::UnixStream::connect(path);",
        "use tokio::signal::unix::{SignalKind, signal};",
        "let n = unsafe { libc::getpid() };",
    ] {
        assert!(!system_names(&tokens(text)).is_empty(), "{text}");
    }
    let plain =
        "use std::fs; // std::os::unix\nconst A: &str = \"rustix::fs\"; #[cfg(test)] mod tests { use rustix::fs; }";
    assert!(system_names(&without_tests(tokens(plain)).0).is_empty());
}

/// Parent, and the circle below it.
fn found_in(sources: &[(&str, &str)]) -> Vec<(String, Vec<String>)> {
    let circles = |(level, graph): (String, _)| circles(&graph).into_iter().map(move |circle| (level.clone(), circle));
    edges(&files(sources)).into_iter().flat_map(circles).collect()
}

#[test]
fn a_planted_circle_is_found_however_it_is_written() {
    let circle =
        |parent: &str, names: &[&str]| vec![(parent.to_owned(), names.iter().map(|n| n.to_string()).collect())];
    for (a, b) in [
        ("use crate::b::Thing;", "use crate::a::Other;"),
        ("use crate::{b::Thing, other};", "fn f() { super::a::g() }"),
        ("use crate::{\n    other::{self, x},\n    b,\n};", "pub(crate) use super::a::{g as h};"),
        ("fn f(x: &'static crate::b::Thing) {}", "const C: char = '\"'; use super::a;"),
        ("use super::b::*;", "const C: &str = \"\\\"\"; fn f() { crate::a::g() }"),
        ("#[cfg(test)]\nmod tests { use crate::other; }\nuse crate::b;", "use crate::a;"),
    ] {
        assert_eq!(found_in(&[("a.rs", a), ("b.rs", b), ("other.rs", "")]), circle("src", &["a", "b"]), "{a} {b}");
    }
    // Three in a round, in a folder, one of them from a file deeper down.
    let deep = [
        ("m/mod.rs", "mod a; mod b; mod c;"),
        ("m/a.rs", "use super::b::Thing;"),
        ("m/b/inner.rs", "use super::super::c;"),
        ("m/b/mod.rs", "mod inner;"),
        ("m/c.rs", "use crate::m::a;"),
    ];
    assert_eq!(found_in(&deep), circle("m", &["a", "b", "c"]));
}

#[test]
fn what_is_no_circle_is_none() {
    for (a, b) in [
        ("use crate::b::Thing;", "use std::collections::BTreeMap;"),
        // Comments, texts, tests, and a parent's items are no dependency of siblings.
        ("use crate::b::Thing;", "// use crate::a\n/* crate::a::g() /* */ */ const T: &str = \"crate::a\";"),
        ("use crate::b::Thing;", "const T: &str = r#\"crate::a \" crate::a\"#;"),
        ("use crate::b::Thing;", "#[cfg(test)]\nmod tests {\n    use crate::a::g;\n    fn f() { {} }\n}\n"),
        ("use crate::b::Thing;", "#[cfg(test)]\nmod tests;\nuse super::Thing;"),
        ("use crate::b::Thing;", "use other::a::Thing; fn f() { x::crate_::a() }"),
    ] {
        let sources = [("a.rs", a), ("b.rs", b), ("b/tests.rs", "use crate::a;"), ("main.rs", "mod a; mod b;")];
        let expected: &[(String, Vec<String>)] = &[];
        // The file of tests counts only where nobody says that it is one.
        let sources = if b.contains("mod tests;") { &sources[..] } else { &sources[..2] };
        assert_eq!(found_in(sources), expected, "{a} {b}");
    }
}

/// Small inputs that once did not work are numbered; each has a test that names its number.
const CASES: std::ops::RangeInclusive<u32> = 1..=44;

/// The numbers behind every `Case` of a text: `Cases 4 and 24`, `Cases 3, 5 and 11`.
fn cases(text: &str) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let words: Vec<&str> = text.split([' ', '\n', '(', ')']).filter(|word| !word.is_empty()).collect();
    for (at, _) in words.iter().enumerate().filter(|(_, word)| matches!(**word, "Case" | "Cases")) {
        let following = words[at + 1..].iter().filter(|word| **word != "and");
        let numbers = following.map_while(|word| word.trim_end_matches([',', '.', ':', ';']).parse::<u32>().ok());
        found.extend(numbers);
    }
    found
}

#[test]
fn every_case_has_a_test_that_is_found_by_its_number() {
    assert_eq!(cases("/// Cases 3, 5 and 11: a hold. Case 7.\n// Case closed"), BTreeSet::from([3, 5, 7, 11]));
    let mut named = BTreeSet::new();
    for dir in ["tests/tests", "protocol/tests"] {
        for entry in fs::read_dir(root().join(dir)).expect("the tests").flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "rs") {
                named.extend(cases(&fs::read_to_string(entry.path()).expect("a test")));
            }
        }
    }
    let missing: Vec<u32> = CASES.filter(|case| !named.contains(case)).collect();
    assert!(missing.is_empty(), "no test names these cases: {missing:?}");
}
