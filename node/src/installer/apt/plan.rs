//! What apt says it would fetch and remove, and why it does nothing, told from what it printed in the C locale.

/// Bytes of a complaint that are told.
const MAX_COMPLAINT: usize = 300;

/// The packages that apt lists as to be removed.
pub(super) fn going(text: &str) -> Vec<&str> {
    let lines = text.lines().skip_while(|line| !line.starts_with("The following packages will be REMOVED:")).skip(1);
    lines.take_while(|line| line.starts_with(' ')).flat_map(str::split_ascii_whitespace).collect()
}

/// The paths below the repository of the files that `apt-get --print-uris` names: `'URI' FILE SIZE HASH`.
pub(super) fn files(text: &str, repository: &str) -> Result<Vec<String>, String> {
    let mut files = Vec::new();
    for line in text.lines() {
        let Some((uri, _)) = line.strip_prefix('\'').and_then(|rest| rest.split_once('\'')) else { continue };
        let below = uri.strip_prefix(repository).and_then(|rest| rest.strip_prefix('/'));
        let path = below
            .and_then(decoded)
            .ok_or_else(|| format!("apt would fetch {uri:?}, which is not in its one source"))?;
        files.push(path);
    }
    Ok(files)
}

/// A path without its percent signs; `None` when it leads anywhere but downwards.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = after.get(..2).and_then(|digits| hex::decode(digits).ok())?;
            bytes.extend(digits);
            rest = after.get(2..)?;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    let path = String::from_utf8(bytes).ok()?;
    is_downward(&path).then_some(path)
}

/// Whether a path leads to something below where it begins, and has nothing odd in it.
pub(super) fn is_downward(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+._-~^%=@:".contains(&byte);
    !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.bytes().all(plain))
}

/// The lines with which apt says what is wrong, as one.
pub(super) fn complaint(text: &str) -> String {
    let is_detail = |line: &str| {
        let line = line.trim_start();
        !line.starts_with("- ") && !line.starts_with("Hashes of") && !line.starts_with("Last modification")
    };
    let mut said: Vec<&str> = Vec::new();
    for mark in ["Err:", "E: ", "W: "] {
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if !line.starts_with(mark) {
                continue;
            }
            // What a fetch failed of stands on the next line.
            let told = if mark == "Err:" { lines.next_if(|next| next.starts_with("  ")).unwrap_or(line) } else { line };
            let told = told.trim();
            if is_detail(told) && !said.contains(&told) {
                said.push(told);
            }
        }
        if mark == "E: " && !said.is_empty() {
            break;
        }
    }
    let plain = super::super::log::plain(&said.join("; "));
    if plain.len() <= MAX_COMPLAINT {
        return plain;
    }
    let head: String = plain.chars().take(MAX_COMPLAINT).collect();
    format!("{} ...", head.rsplit_once(' ').map_or(&*head, |(words, _)| words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_is_named() {
        let text = "Reading package lists...\nThe following packages will be REMOVED:\n  libssl-dev libpq-dev\n  old\n\
                    The following NEW packages will be installed:\n  alld\n";
        assert_eq!(going(text), ["libssl-dev", "libpq-dev", "old"]);
    }

    #[test]
    fn files_are_named_below_the_repository_and_nowhere_else() {
        let uri = "file:/s/private/ab/repository";
        let line = |path: &str| format!("'{path}' x 1 MD5Sum:00\n");
        let good = line("file:/s/private/ab/repository/pool/main/a/alpha_1%253a2.0+b~c_amd64.deb");
        assert_eq!(files(&good, uri), Ok(vec!["pool/main/a/alpha_1%3a2.0+b~c_amd64.deb".into()]));
        for bad in [
            "file:/s/private/ab/repository/../x.deb",
            "file:/s/private/ab/repository/pool/%2e%2e/x.deb",
            "file:/s/private/ab/repositoryx/x.deb",
            "http://example.org/x.deb",
            "file:/s/private/ab/repository/pool/%zz",
            "file:/s/private/ab/repository/",
        ] {
            assert!(files(&line(bad), uri).is_err(), "{bad}");
        }
        assert_eq!(files("Reading package lists...\n", uri), Ok(Vec::new()));
    }

    #[test]
    fn a_complaint_names_the_cause_and_spares_the_hashes() {
        let text = "Err:2 file:/r s/main Packages\n  Hash Sum mismatch\n  Hashes of expected file:\n   - SHA256:00\n\
                    E: Failed to fetch store:/x  Hash Sum mismatch\n   Hashes of expected file:\nE: Some index files failed\n";
        assert_eq!(
            complaint(text),
            "Hash Sum mismatch; E: Failed to fetch store:/x Hash Sum mismatch; E: Some index files failed"
        );
        assert_eq!(complaint("fine\nW: odd\n"), "W: odd");
    }
}
