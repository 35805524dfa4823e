//! Rust source with comments and literals blanked, and with its tests marked.

/// A source file, ready to be searched.
#[derive(Debug)]
pub(super) struct Code {
    /// As it is on disk.
    pub(super) raw: String,
    /// The same length, with comments, strings and characters replaced by spaces; line ends stay.
    pub(super) blank: String,
    /// Byte ranges of items under `#[cfg(test)]`.
    tests: Vec<std::ops::Range<usize>>,
}

impl Code {
    pub(super) fn new(raw: &str) -> Self {
        let blank = blank(raw);
        let tests = test_items(&blank);
        Self { raw: raw.to_owned(), blank, tests }
    }

    /// Whether the byte at `offset` belongs to a test.
    pub(super) fn is_test(&self, offset: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&offset))
    }

    /// The number of the line that holds the byte at `offset`, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        1 + self.raw.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
    }

    /// Lines that are not part of a test.
    pub(super) fn production_lines(&self) -> usize {
        let mut offset = 0;
        let mut count = 0;
        for line in self.raw.split_inclusive('\n') {
            count += usize::from(!self.is_test(offset));
            offset += line.len();
        }
        count
    }

    /// Whether the line of `offset`, or the one above, carries `// tidy(rule): reason`.
    pub(super) fn excused(&self, offset: usize, rule: &str) -> bool {
        let line = self.line(offset);
        let marker = format!("// tidy({rule}): ");
        self.raw
            .lines()
            .skip(line.saturating_sub(2))
            .take(if line == 1 { 1 } else { 2 })
            .any(|text| text.split_once(marker.as_str()).is_some_and(|(_, reason)| !reason.trim().is_empty()))
    }

    /// Byte ranges of what is between the parentheses of calls to `function`.
    pub(super) fn arguments(&self, function: &str) -> Vec<std::ops::Range<usize>> {
        self.find(&format!("{function}("))
            .map(|at| {
                let start = at + function.len();
                let mut depth = 0usize;
                let end = self.blank[start..].bytes().position(|byte| {
                    depth = match byte {
                        b'(' => depth + 1,
                        b')' => depth.saturating_sub(1),
                        _ => depth,
                    };
                    depth == 0
                });
                start..end.map_or(self.blank.len(), |end| start + end)
            })
            .collect()
    }

    /// Offsets at which `needle` starts in the code. A needle that starts or ends like a word matches whole words only.
    pub(super) fn find<'a>(&'a self, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
        let bytes = self.blank.as_bytes();
        let word = |byte: Option<&u8>| byte.is_some_and(|byte| is_word(*byte));
        let (first, last) = (word(needle.as_bytes().first()), word(needle.as_bytes().last()));
        self.blank.match_indices(needle).map(|(at, _)| at).filter(move |at| {
            let before = at.checked_sub(1).and_then(|before| bytes.get(before));
            !(first && word(before) || last && word(bytes.get(at + needle.len())))
        })
    }
}

pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// What the scanner is inside of.
enum In {
    Code,
    LineComment,
    BlockComment(usize),
    /// With the number of `#` of a raw string, or `None` for one with escapes.
    Text(Option<usize>),
}

fn blank(raw: &str) -> String {
    let bytes = raw.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut state = In::Code;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at..];
        // How many bytes to take, and whether they stay.
        let (take, keep) = match &mut state {
            In::Code if rest.starts_with(b"//") => {
                state = In::LineComment;
                (2, false)
            }
            In::Code if rest.starts_with(b"/*") => {
                state = In::BlockComment(1);
                (2, false)
            }
            In::Code if byte == b'"' => {
                state = In::Text(None);
                (1, true)
            }
            In::Code if byte == b'r' && !at.checked_sub(1).is_some_and(|p| is_word(bytes[p]) && bytes[p] != b'b') => {
                let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
                if rest.get(1 + hashes) == Some(&b'"') {
                    state = In::Text(Some(hashes));
                    (2 + hashes, false)
                } else {
                    (1, true)
                }
            }
            In::Code if byte == b'\'' => (character(rest), false),
            In::Code => (1, true),
            In::LineComment => {
                if byte == b'\n' {
                    state = In::Code;
                }
                (1, false)
            }
            In::BlockComment(depth) => {
                let open = rest.starts_with(b"/*");
                let close = rest.starts_with(b"*/");
                *depth = *depth + usize::from(open) - usize::from(close);
                if *depth == 0 {
                    state = In::Code;
                }
                (if open || close { 2 } else { 1 }, false)
            }
            In::Text(None) if byte == b'\\' => (2, false),
            In::Text(None) if byte == b'"' => {
                state = In::Code;
                (1, true)
            }
            In::Text(Some(hashes))
                if byte == b'"' && rest[1..].iter().take_while(|b| **b == b'#').count() >= *hashes =>
            {
                let take = 1 + *hashes;
                state = In::Code;
                (take, false)
            }
            In::Text(_) => (1, false),
        };
        for &byte in rest.iter().take(take) {
            out.push(if keep || byte == b'\n' { byte } else { b' ' });
        }
        at += take;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Length of the character literal at the start, or 1 for the quote of a lifetime.
fn character(rest: &[u8]) -> usize {
    let text = String::from_utf8_lossy(&rest[..rest.len().min(16)]).into_owned();
    let mut chars = text.chars().skip(1);
    match chars.next() {
        Some('\\') => rest.iter().skip(3).position(|byte| *byte == b'\'').map_or(1, |close| close + 4),
        Some(one) if chars.next() == Some('\'') => 2 + one.len_utf8(),
        _ => 1,
    }
}

fn test_items(blank: &str) -> Vec<std::ops::Range<usize>> {
    let mut items = Vec::new();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test", "#[cfg(any(test"] {
        for (start, _) in blank.match_indices(attribute) {
            items.push(start..start + item_len(&blank[start..]));
        }
    }
    items
}

/// Length of the item at the start, with its attributes: up to the `;` or the closing brace that ends it.
fn item_len(text: &str) -> usize {
    let (mut braces, mut brackets) = (0usize, 0usize);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets = brackets.saturating_sub(1),
            b'{' => braces += 1,
            b'}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 {
                    return at + 1;
                }
            }
            b';' if braces == 0 && brackets == 0 => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        let code = Code::new(
            "let a = \"x.unwrap()\\\"\"; // b.unwrap()\n/* /* c.unwrap() */ */ let d = r#\"e.unwrap()\"#; f.unwrap();\n\
             let g: &'static str = h('\"'); let i = '\\''; k.unwrap()",
        );
        assert_eq!(code.blank.len(), code.raw.len());
        let found: Vec<usize> = code.find(".unwrap()").map(|at| code.line(at)).collect();
        assert_eq!(found, [2, 3]);
        assert!(code.blank.contains("&'static str") || code.blank.contains("& static str"));
    }

    #[test]
    fn words_match_whole() {
        let code = Code::new("forbid(unsafe_code); unsafe { } my_unsafe; dbg!(x); xdbg!(y)");
        assert_eq!(code.find("unsafe").count(), 1);
        assert_eq!(code.find("dbg!").count(), 1);
    }

    #[test]
    fn tests_are_told_from_production_code() {
        let code =
            Code::new("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { c; }\n}\nfn d() {}\n#[cfg(test)]\nmod e;\n");
        assert!(code.is_test(code.raw.find("fn b").unwrap()));
        assert!(!code.is_test(code.raw.find("fn a").unwrap()));
        assert!(!code.is_test(code.raw.find("fn d").unwrap()));
        assert_eq!(code.production_lines(), 2);
    }

    #[test]
    fn arguments_end_with_their_parenthesis() {
        let code = Code::new("a(b(c), || { d() }); e()");
        let ranges = code.arguments("a");
        assert_eq!(ranges.len(), 1);
        for (call, inside) in [("c", true), ("d()", true), ("e()", false)] {
            assert_eq!(ranges[0].contains(&code.raw.find(call).unwrap()), inside, "{call}");
        }
    }

    #[test]
    fn an_excuse_needs_the_rule_and_a_reason() {
        let excused = |text: &str| {
            let code = Code::new(text);
            code.excused(text.find("x()").unwrap(), "rule")
        };
        assert!(excused("// tidy(rule): it cannot fail\nx()"));
        assert!(excused("x() // tidy(rule): it cannot fail"));
        assert!(!excused("// tidy(rule): \nx()"));
        assert!(!excused("// tidy(other): it cannot fail\nx()"));
        assert!(!excused("// tidy(rule): too far up\n\nx()"));
    }
}
