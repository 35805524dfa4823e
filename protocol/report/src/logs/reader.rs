//! From bytes, in pieces of any size, to entries.

use super::time::Zone;
use super::w3c::Directives;
use super::{Entry, Format, MAX_BAD, MAX_LINE, MAX_QUOTED, Reason};

/// A line that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: &'static str,
    /// How it begins.
    pub text: String,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Lines, but for empty ones and directives.
    pub lines: u64,
    /// Those that are requests.
    pub entries: u64,
    /// Those that are none.
    pub bad: u64,
    /// The first of those.
    pub first_bad: Vec<BadLine>,
}

/// Reads a log.
#[derive(Debug, Clone)]
pub struct Reader {
    format: Format,
    zone: Zone,
    directives: Directives,
    /// The beginning of a line whose end has not come.
    open: Vec<u8>,
    /// The open line is too long already; its rest is thrown away.
    too_long: bool,
    number: u64,
    totals: Totals,
}

impl Reader {
    /// A reader of one log. `zone` is for times that name none; without it the format's own.
    #[must_use]
    pub fn new(format: Format, zone: Option<Zone>) -> Self {
        let zone = zone.unwrap_or_else(|| format.zone());
        Self {
            format,
            zone,
            directives: Directives::default(),
            open: Vec::new(),
            too_long: false,
            number: 0,
            totals: Totals::default(),
        }
    }

    /// Takes the next bytes, and gives each request of the lines that end in them, with the whole line.
    pub fn read(&mut self, mut bytes: &[u8], each: &mut impl FnMut(&[u8], Entry<'_>)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if self.open.is_empty() && !self.too_long {
                // The usual case: nothing is copied.
                self.line(line, line.len() > MAX_LINE, each);
            } else {
                self.keep(line);
                self.close(each);
            }
        }
        self.keep(bytes);
    }

    /// Ends the log: a last line without its end counts, too.
    pub fn finish(mut self, each: &mut impl FnMut(&[u8], Entry<'_>)) -> Totals {
        if !self.open.is_empty() || self.too_long {
            self.close(each);
        }
        self.totals
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = (MAX_LINE + 1).saturating_sub(self.open.len());
        self.too_long |= bytes.len() > room;
        self.open.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
    }

    fn close(&mut self, each: &mut impl FnMut(&[u8], Entry<'_>)) {
        let mut line = std::mem::take(&mut self.open);
        let too_long = std::mem::take(&mut self.too_long);
        self.line(&line, too_long || line.len() > MAX_LINE, each);
        line.clear();
        self.open = line;
    }

    fn line(&mut self, bytes: &[u8], too_long: bool, each: &mut impl FnMut(&[u8], Entry<'_>)) {
        self.number += 1;
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        if bytes.first() == Some(&b'#') && self.format == Format::W3c {
            if let (Ok(text), false) = (std::str::from_utf8(bytes), too_long) {
                self.directives.read(text);
            }
            return;
        }
        self.totals.lines += 1;
        match self.entry(bytes, too_long) {
            Ok(entry) => {
                each(bytes, entry);
                self.totals.entries += 1;
            }
            Err(reason) => {
                self.totals.bad += 1;
                if self.totals.first_bad.len() < MAX_BAD {
                    let shown = bytes.get(..bytes.len().min(MAX_QUOTED)).unwrap_or_default();
                    let text: String = String::from_utf8_lossy(shown).chars().filter(|c| !c.is_control()).collect();
                    self.totals.first_bad.push(BadLine { line: self.number, reason, text });
                }
            }
        }
    }

    fn entry<'a>(&self, bytes: &'a [u8], too_long: bool) -> Result<Entry<'a>, Reason> {
        if too_long {
            return Err("it is longer than 32768 bytes");
        }
        let line = std::str::from_utf8(bytes).map_err(|_| "it is not in UTF-8")?;
        match &self.format {
            Format::Nginx(format) => format.entry(line, self.zone),
            Format::W3c => self.directives.entry(line),
            Format::Tencent => super::tencent::entry(line, self.zone),
            Format::Aliyun => super::aliyun::entry(line),
        }
    }
}

const _: () = assert!(MAX_LINE == 32_768, "the reason above names it");

#[cfg(test)]
mod tests {
    use super::super::LogFormat;
    use super::*;

    const LOG: &str = "#Fields: date time cs-uri sc-bytes\r\n2020-01-01 00:00:00 /a 1\r\n\r\nbroken\n# comment\n2020-01-01 00:00:01 /b 2";

    fn read(reader: Reader, pieces: impl Iterator<Item = Vec<u8>>) -> (Vec<(String, u64)>, Totals) {
        let mut found = Vec::new();
        let mut reader = reader;
        let mut each = |_: &[u8], entry: Entry<'_>| found.push((entry.path.to_owned(), entry.bytes));
        for piece in pieces {
            reader.read(&piece, &mut each);
        }
        let totals = reader.finish(&mut each);
        (found, totals)
    }

    #[test]
    fn pieces_of_any_size_give_the_same() {
        let reader = || Reader::new(Format::W3c, None);
        let whole = read(reader(), std::iter::once(LOG.as_bytes().to_vec()));
        assert_eq!(whole.0, [("/a".to_owned(), 1), ("/b".to_owned(), 2)]);
        assert_eq!((whole.1.lines, whole.1.entries, whole.1.bad), (3, 2, 1));
        assert_eq!((whole.1.first_bad[0].line, &*whole.1.first_bad[0].text), (4, "broken"));
        for size in 1..LOG.len() {
            let pieces = LOG.as_bytes().chunks(size).map(<[u8]>::to_vec);
            assert_eq!(read(reader(), pieces), whole, "{size}");
        }
    }

    #[test]
    fn long_lines_are_bad_and_cost_no_memory() {
        let long = [b'x'; 1 << 16];
        let mut reader = Reader::new(Format::Tencent, None);
        for _ in 0..100 {
            reader.read(&long, &mut |_, _| panic!("no entry"));
            assert!(reader.open.len() <= MAX_LINE + 1);
        }
        reader.read(b"\n\xff\n", &mut |_, _| panic!("no entry"));
        let totals = reader.finish(&mut |_, _| panic!("no entry"));
        assert_eq!((totals.lines, totals.bad), (2, 2));
        assert!(totals.first_bad[0].reason.contains("longer") && totals.first_bad[0].text.len() == MAX_QUOTED);
        assert!(totals.first_bad[1].reason.contains("UTF-8"));
    }

    #[test]
    fn only_the_first_bad_lines_are_kept() {
        let format = Format::Nginx(LogFormat::default());
        let lines = "bad\n".repeat(1000).into_bytes();
        let (_, totals) = read(Reader::new(format, None), std::iter::once(lines));
        assert_eq!((totals.bad, totals.first_bad.len()), (1000, MAX_BAD));
    }
}
