//! Takes out of a text what must stay secret: the very secrets of this directory wherever they stand, and whatever looks like one: values
//! of fields that are called so, credentials in URLs, join tokens, bearer tokens, private keys in PEM. Rather too much than too little.

use std::cell::Cell;

/// What stands where something was taken out.
pub(super) const INSTEAD: &str = "[left out]";
/// Shorter texts are no secrets, and stand everywhere.
const MIN_SECRET: usize = 8;
/// Parts of names whose values are secrets.
const SECRET_NAMES: [&str; 12] = [
    "password",
    "passphrase",
    "passwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "credential",
    "authorization",
    "cookie",
    "private_key",
    "ciphertext",
];

#[derive(Debug, Default)]
pub(super) struct Redactor {
    secrets: Vec<String>,
    replaced: Cell<usize>,
}

impl Redactor {
    /// A text that must stand nowhere; each of its lines and of its words too.
    pub(super) fn must_not_show(&mut self, text: &str) {
        for word in text.split(|c: char| c.is_whitespace() || "\"'=&?".contains(c)) {
            if word.len() >= MIN_SECRET && !word.starts_with("http") && !word.ends_with("enter") {
                self.secrets.push(word.to_owned());
            }
        }
    }

    /// The values of the secret fields of a file in JSON or the like.
    pub(super) fn must_not_show_any_of(&mut self, text: &str) {
        let words = text.split(|c: char| c.is_whitespace() || "\"',:{}[]".contains(c)).filter(|word| !word.is_empty());
        let mut is_secret = false;
        for word in words {
            if is_secret && word.len() >= MIN_SECRET {
                self.secrets.push(word.to_owned());
            }
            is_secret = is_secret_name(word);
        }
    }

    /// How much was taken out so far.
    pub(super) fn replaced(&self) -> usize {
        self.replaced.get()
    }

    /// The text without its secrets.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            let found = text.matches(secret.as_str()).count();
            if found > 0 {
                self.count(found);
                text = text.replace(secret.as_str(), INSTEAD);
            }
        }
        text = self.between(&text, "-----BEGIN", "PRIVATE KEY-----", "-----END");
        text = self.after(&text, "upswarm1:", |c| c.is_ascii_alphanumeric());
        text = self.after(&text, "Bearer ", |c| !c.is_whitespace() && !"\"'".contains(c));
        text = self.after(&text, "Basic ", |c| c.is_ascii_alphanumeric() || "+/=".contains(c));
        text = self.credentials(&text);
        self.fields(&text)
    }

    fn count(&self, more: usize) {
        self.replaced.set(self.replaced.get() + more);
    }

    /// Takes out what follows a mark, as long as its characters are of a kind.
    fn after(&self, text: &str, mark: &str, is_part: impl Fn(char) -> bool) -> String {
        let (mut done, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(at) = rest.find(mark) {
            let (before, found) = rest.split_at(at + mark.len());
            done.push_str(before);
            let end = found.find(|c| !is_part(c)).unwrap_or(found.len());
            if end >= MIN_SECRET {
                self.count(1);
                done.push_str(INSTEAD);
            } else {
                done.push_str(&found[..end]);
            }
            rest = &found[end..];
        }
        done + rest
    }

    /// Takes out blocks of PEM that hold a private key, to the line that ends them.
    fn between(&self, text: &str, begin: &str, of: &str, end: &str) -> String {
        let (mut done, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(at) = rest.find(begin) {
            let line = rest[at..].find(['\n', '\\']).map_or(rest.len(), |line| at + line);
            if !rest[at..line].contains(of) {
                done.push_str(&rest[..line]);
                rest = &rest[line..];
                continue;
            }
            done.push_str(&rest[..at]);
            done.push_str(INSTEAD);
            self.count(1);
            let last = rest[line..].find(end).map_or(rest.len(), |last| line + last + end.len());
            let last = rest[last..].find(['\n', '\\', '"']).map_or(rest.len(), |more| last + more);
            rest = &rest[last..];
        }
        done + rest
    }

    /// Takes user and password out of URLs, to the last `@` of the word: a password may hold what ends a host elsewhere (`/`, `(`, `#`),
    /// and rather a path goes too than half of a password stays.
    fn credentials(&self, text: &str) -> String {
        let (mut done, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(at) = rest.find("://") {
            let (before, found) = rest.split_at(at + 3);
            done.push_str(before);
            let end = found.find(|c: char| c.is_whitespace() || c == '"' || c == '\'').unwrap_or(found.len());
            if let Some(at) = found[..end].rfind('@') {
                self.count(1);
                done.push_str(INSTEAD);
                rest = &found[at..];
            } else {
                rest = found;
            }
        }
        done + rest
    }

    /// Takes out the values of fields whose names say that they are secret: `name = "value"`, `"name": "value"`, `name=value`.
    fn fields(&self, text: &str) -> String {
        let mut done = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let mut rest = line;
            while let Some(at) = rest.find([':', '=']) {
                let (before, found) = rest.split_at(at + 1);
                done.push_str(before);
                rest = found;
                let name = before[..at].trim_end_matches(['"', '\'', ' ', '\\']);
                let begin = name.rfind(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').map_or(0, |at| at + 1);
                let name = name.get(begin..).unwrap_or(name);
                if !is_secret_name(name) {
                    continue;
                }
                let gap = found.len() - found.trim_start_matches(' ').len();
                let value = &found[gap..];
                let (open, ends): (usize, fn(char) -> bool) = match value.chars().next() {
                    Some('"') => (1, |c| c == '"'),
                    Some('\'') => (1, |c| c == '\''),
                    // Lists and objects are walked into.
                    Some('[' | '{') | None => continue,
                    Some(_) => (0, |c| c.is_whitespace() || "&,;\"'}".contains(c)),
                };
                let len = value[open..].find(ends).unwrap_or(value.len() - open);
                let shown = &value[open..open + len];
                if !shown.is_empty() && shown != INSTEAD && !matches!(shown, "null" | "true" | "false") {
                    self.count(1);
                    done.push_str(&found[..gap + open]);
                    done.push_str(INSTEAD);
                    rest = &value[open + len..];
                }
            }
            done.push_str(rest);
        }
        done
    }
}

/// Names of files are none: what they hold is not here.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    SECRET_NAMES.iter().any(|part| name.contains(part)) && !name.ends_with("_file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_looks_like_a_secret_goes_and_the_rest_stays() {
        let redactor = Redactor::default();
        for (text, wanted) in [
            (
                "url = \"https://anna:hunter22@mirror.example.org/debian?x=1\"",
                "url = \"https://[left out]@mirror.example.org/debian?x=1\"",
            ),
            ("see http://example.org/a@b", "see http://[left out]@b"),
            ("see http://example.org/a by a@b", "see http://example.org/a by a@b"),
            ("url=\"http://anna:Geheim/Wort99@proxy:3128\"", "url=\"http://[left out]@proxy:3128\""),
            ("at http://anna:Geheim(Wort99,?#x@y@proxy:3128/", "at http://[left out]@proxy:3128/"),
            ("password = \"hunter2\"\nquota = 3", "password = \"[left out]\"\nquota = 3"),
            ("{\"admin_token\":\"abc\",\"pid\":7}", "{\"admin_token\":\"[left out]\",\"pid\":7}"),
            (
                "{\"tokens\":[{\"token\":\"abcdef\",\"uses\":1}]}",
                "{\"tokens\":[{\"token\":\"[left out]\",\"uses\":1}]}",
            ),
            ("GET /x?secret=abc&page=2 HTTP", "GET /x?secret=[left out]&page=2 HTTP"),
            ("joins with upswarm1:abcdefgh2345 now", "joins with upswarm1:[left out] now"),
            ("Authorization: Bearer abc.def-ghi", "Authorization: [left out] [left out]"),
            ("token_file = \"/etc/token\"", "token_file = \"/etc/token\""),
            ("passphrase: ''", "passphrase: ''"),
            ("-----BEGIN CERTIFICATE-----\nabc\n", "-----BEGIN CERTIFICATE-----\nabc\n"),
            ("a\n-----BEGIN EC PRIVATE KEY-----\nMII\nxyz\n-----END EC PRIVATE KEY-----\nb", "a\n[left out]\nb"),
            ("12:30:01 ready: 東京 = 3", "12:30:01 ready: 東京 = 3"),
        ] {
            assert_eq!(redactor.redact(text), wanted, "{text}");
        }
        assert!(redactor.replaced() > 8);
    }

    #[test]
    fn the_secrets_of_the_directory_stand_nowhere() {
        let mut redactor = Redactor::default();
        redactor.must_not_show("0123456789abcdef\n");
        redactor.must_not_show_any_of("{\"upswarm_key\": 1, \"public\": \"aabbccddee\", \"secret\": \"ffeeddccbbaa\"}");
        let text = redactor.redact("a 0123456789abcdef b ffeeddccbbaa c aabbccddee");
        assert_eq!(text, "a [left out] b [left out] c aabbccddee");
        for hostile in
            ["://", "@", "password=", "\"token\":\"", "upswarm1:", "-----BEGIN X PRIVATE KEY-----", "secret='é"]
        {
            redactor.redact(hostile);
        }
    }
}
