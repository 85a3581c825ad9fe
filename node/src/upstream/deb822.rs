//! Paragraphs of fields, the form of deb822(5), read as a stream. Owns the grammar and its bounds; what a field means is the
//! reader's.

use std::io::{self, BufRead};

/// The most bytes of a line: lists of what a package provides have 100 KiB.
const MAX_LINE: usize = 1 << 20;
/// The most bytes that are kept of a paragraph: the list of files in a Release has 300 KiB.
const MAX_PARAGRAPH: usize = 16 << 20;

/// Why a text is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Deb822Error {
    /// Not of that form.
    #[error("line {line}: {what}")]
    Malformed {
        /// From 1.
        line: u64,
        what: &'static str,
    },
    /// The bytes cannot be had.
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// The wanted fields of a paragraph, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Paragraph {
    /// Line of its first field, from 1.
    pub(crate) line: u64,
    /// All of it as it is written, where that was asked for.
    pub(crate) text: String,
    values: Vec<Option<String>>,
}

impl Paragraph {
    /// Takes the value of the field at this place of the wanted ones. The lines of a longer value are parted by `\n`.
    pub(crate) fn take(&mut self, field: usize) -> Option<String> {
        self.values.get_mut(field).and_then(Option::take)
    }
}

/// Reads paragraph after paragraph and keeps the wanted fields. Memory is bounded by one paragraph's.
pub(crate) struct Paragraphs<'a, R> {
    input: R,
    wanted: &'a [&'a str],
    line: Vec<u8>,
    number: u64,
    with_text: bool,
}

impl<'a, R: BufRead> Paragraphs<'a, R> {
    /// `wanted` are names of fields; case does not matter.
    pub(crate) fn new(input: R, wanted: &'a [&'a str]) -> Self {
        Self { input, wanted, line: Vec::new(), number: 0, with_text: false }
    }

    /// Keeps the text of each paragraph too, without remarks.
    pub(crate) fn with_text(self) -> Self {
        Self { with_text: true, ..self }
    }

    /// The next paragraph; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Paragraph>, Deb822Error> {
        let mut paragraph = Paragraph { values: vec![None; self.wanted.len()], ..Paragraph::default() };
        let mut kept = 0;
        // The wanted field that a continuation line belongs to.
        let mut current: Option<usize> = None;
        loop {
            if !self.read_line()? {
                return Ok((paragraph.line > 0).then_some(paragraph));
            }
            let number = self.number;
            let wrong = |what| Deb822Error::Malformed { line: number, what };
            let line = self.line.trim_ascii_end();
            if self.with_text && !line.is_empty() && !line.starts_with(b"#") {
                kept += line.len() + 1;
                if kept > MAX_PARAGRAPH {
                    return Err(wrong("a paragraph that is longer than any"));
                }
                let text = std::str::from_utf8(line).map_err(|_| wrong("a line that is not UTF-8"))?;
                paragraph.text.push_str(text);
                paragraph.text.push('\n');
            }
            match line.first() {
                None if paragraph.line > 0 => return Ok(Some(paragraph)),
                None => continue,
                Some(b'#') => continue,
                Some(b' ' | b'\t') => {
                    if paragraph.line == 0 {
                        return Err(wrong("the rest of a field, and no field before it"));
                    }
                    let Some(place) = current.and_then(|field| paragraph.values.get_mut(field)) else { continue };
                    let more = std::str::from_utf8(line).map_err(|_| wrong("a value that is not UTF-8"))?.trim();
                    kept += more.len() + 1;
                    if kept > MAX_PARAGRAPH {
                        return Err(wrong("a paragraph that is longer than any"));
                    }
                    let value = place.get_or_insert_default();
                    value.push('\n');
                    value.push_str(more);
                }
                Some(_) => {
                    if paragraph.line == 0 {
                        paragraph.line = number;
                    }
                    let colon = line.iter().position(|byte| *byte == b':');
                    let Some((name, rest)) = colon.and_then(|at| line.split_at_checked(at)) else {
                        return Err(wrong("a line that is neither a field nor the rest of one"));
                    };
                    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
                        return Err(wrong("a line that is neither a field nor the rest of one"));
                    }
                    current = self.wanted.iter().position(|wanted| wanted.as_bytes().eq_ignore_ascii_case(name));
                    let Some(place) = current.and_then(|field| paragraph.values.get_mut(field)) else { continue };
                    if place.is_some() {
                        return Err(wrong("a field that stands there twice"));
                    }
                    let value = rest.get(1..).unwrap_or_default();
                    let value = std::str::from_utf8(value).map_err(|_| wrong("a value that is not UTF-8"))?.trim();
                    kept += value.len();
                    *place = Some(value.to_owned());
                }
            }
        }
    }

    /// Reads a line without its end; `false` at the end.
    fn read_line(&mut self) -> Result<bool, Deb822Error> {
        let read = read_line(&mut self.input, &mut self.line, MAX_LINE)?;
        self.number += u64::from(read != Line::End);
        match read {
            Line::End => Ok(false),
            Line::Whole => Ok(true),
            Line::Cut => Err(Deb822Error::Malformed { line: self.number, what: "a line that is longer than any" }),
        }
    }
}

/// What was read of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// Nothing: the input has ended.
    End,
    /// All of it, or all that was left.
    Whole,
    /// As much as was asked for; the rest comes with the next reading.
    Cut,
}

/// Reads a line into `line`, without its end, at most `most` bytes of it: an endless one takes neither memory nor time.
pub(crate) fn read_line(input: &mut (impl BufRead + ?Sized), line: &mut Vec<u8>, most: usize) -> io::Result<Line> {
    line.clear();
    let mut any = false;
    loop {
        let bytes = match input.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if bytes.is_empty() {
            return Ok(if any { Line::Whole } else { Line::End });
        }
        any = true;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        if let Some(kept) = part.get(..most.saturating_sub(line.len())).filter(|kept| kept.len() < part.len()) {
            line.extend_from_slice(kept);
            let used = kept.len();
            input.consume(used);
            return Ok(Line::Cut);
        }
        line.extend_from_slice(part);
        let used = end.map_or(part.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(Line::Whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Read as _};

    fn read(text: &str) -> Result<Vec<Vec<Option<String>>>, Deb822Error> {
        let wanted = ["Package", "Depends"];
        let mut input = Paragraphs::new(text.as_bytes(), &wanted);
        let mut found = Vec::new();
        while let Some(mut paragraph) = input.next()? {
            found.push((0..wanted.len()).map(|field| paragraph.take(field)).collect());
        }
        Ok(found)
    }

    #[test]
    fn wanted_fields_are_kept_with_their_further_lines() {
        let text =
            "\n\nPackage: a\nOther: x\n more of other\nDEPENDS: b,\n c\n# a remark\n\td \n\nPackage:b\n\n \nPackage: c";
        let found = read(text).unwrap();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(found, [vec![text("a"), text("b,\nc\nd")], vec![text("b"), None], vec![text("c"), None]]);
        assert_eq!(read("").unwrap().len(), 0);
    }

    #[test]
    fn what_is_no_field_is_refused_with_its_line() {
        for (text, line, cause) in [
            ("Package: a\nnonsense\n", 2, "neither a field"),
            (" rest\n", 1, "no field before"),
            ("Package: a\nPackage: b\n", 2, "twice"),
            ("Package: a\n: b\n", 2, "neither a field"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("line {line}: ")) && error.contains(cause), "{error}");
        }
        let error = Paragraphs::new(&b"Package: \xff\n"[..], &["Package"]).next().unwrap_err();
        assert!(error.to_string().contains("UTF-8"), "{error}");
    }

    #[test]
    fn endless_input_takes_no_memory() {
        let mut input = Paragraphs::new(BufReader::new(io::repeat(b'a')), &["Package"]);
        assert!(input.next().unwrap_err().to_string().contains("longer than any"));
        let endless = b"Package: a\n"
            .chain(BufReader::new(io::repeat(b' ').take(1 << 16).chain(io::repeat(b'\n')).take(1 << 17)));
        assert!(Paragraphs::new(BufReader::new(endless), &["Package"]).next().unwrap().is_some());
    }
}
