//! Rust source files as text, with comments, strings and tests told apart. Knows no grammar beyond that.

use std::{fs, path::Path, sync::OnceLock};

use super::root;

/// A source file.
pub(crate) struct Source {
    /// Its path from the root, with `/`.
    pub(crate) path: String,
    /// Its text as it is.
    pub(crate) text: String,
    /// Its text with comments and the content of strings replaced by blanks: same lines, same columns.
    pub(crate) code: String,
}

impl Source {
    /// How many lines precede its tests; all lines if it has none.
    pub(crate) fn lines_before_tests(&self) -> usize {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].ends_with('{'));
        tests.unwrap_or(lines.len())
    }

    /// Whether all of it is for tests only.
    pub(crate) fn is_test(&self) -> bool {
        let is_test = |part: &str| part == "tests" || part.ends_with("tests.rs") || part.starts_with("test_");
        self.path.split('/').any(is_test)
    }

    /// The numbered lines of its code that are not tests.
    pub(crate) fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let wanted = if self.is_test() { 0 } else { self.lines_before_tests() };
        self.code.lines().take(wanted).enumerate().map(|(index, line)| (index + 1, line))
    }

    /// `path:line: what` for each product line that has the text `what` as whole words.
    pub(crate) fn mentions(&self, what: &str) -> Vec<String> {
        let found = self.product_lines().filter(|(_, line)| has_words(line, what));
        found.map(|(number, _)| format!("{}:{number}: {what}", self.path)).collect()
    }
}

/// All Rust files of the work tree.
pub(crate) fn all() -> &'static [Source] {
    static ALL: OnceLock<Vec<Source>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut sources = Vec::new();
        collect(&root(), "", &mut sources);
        assert!(sources.len() > 50, "the work tree was not found: {} files", sources.len());
        sources
    })
}

/// The Rust files of the product: what is installed on a device.
pub(crate) fn product() -> impl Iterator<Item = &'static Source> {
    all().iter().filter(|source| !is_tool(&source.path))
}

/// Tests, the simulated cloud and the benchmark: never installed on a device.
fn is_tool(path: &str) -> bool {
    path.starts_with("tests/") || path.starts_with("bench/")
}

fn collect(directory: &Path, prefix: &str, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().expect("our file names are UTF-8");
        let path = format!("{prefix}{name}");
        if entry.file_type().unwrap().is_dir() {
            if !name.starts_with('.') && name != "target" && name != "fixtures" {
                collect(&entry.path(), &format!("{path}/"), sources);
            }
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(entry.path()).unwrap();
            let code = code_of(&text);
            sources.push(Source { path, text, code });
        }
    }
}

/// Whether `line` holds `what` with no letter, digit or underscore right before or after it.
fn has_words(line: &str, what: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(what).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(part_of_word);
        let after = line[at + what.len()..].chars().next().is_some_and(part_of_word);
        !before && !after
    })
}

/// `text` with comments and the content of strings replaced by blanks.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let skipped = comment(&text[at..]).or_else(|| literal(&text[at..], code.chars().next_back()));
        let length = skipped.unwrap_or_else(|| text[at..].chars().next().map_or(1, char::len_utf8));
        let piece = &text[at..at + length];
        if skipped.is_some() {
            code.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            code.push_str(piece);
        }
        at += length;
    }
    code
}

/// The length of the comment that `text` begins with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0, 0);
    loop {
        match text.get(at..at + 2) {
            Some("/*") => (depth, at) = (depth + 1, at + 2),
            Some("*/") => (depth, at) = (depth - 1, at + 2),
            _ if at >= text.len() => return Some(text.len()),
            _ => at += text[at..].chars().next().map_or(1, char::len_utf8),
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The length of the string or character that `text` begins with; `before` is the character before it.
fn literal(text: &str, before: Option<char>) -> Option<usize> {
    let inside_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let unprefixed = text.strip_prefix(['b', 'c']).filter(|_| !inside_word).unwrap_or(text);
    let prefix = text.len() - unprefixed.len();
    if let Some(rest) = unprefixed.strip_prefix('r').filter(|_| !inside_word) {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        if let Some(content) = rest[hashes..].strip_prefix('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let length = content.find(&end).map_or(content.len(), |at| at + end.len());
            return Some(prefix + 1 + hashes + 1 + length);
        }
    }
    let quote = unprefixed.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    if quote == '\'' && is_lifetime(unprefixed) {
        return None;
    }
    let mut escaped = false;
    for (at, c) in unprefixed.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(prefix + at + 1),
            _ => (),
        }
    }
    Some(text.len())
}

/// Whether the `'` that `text` begins with starts a lifetime and not a character.
fn is_lifetime(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    let first = chars.next();
    first != Some('\\') && chars.next() != Some('\'')
}

#[test]
fn comments_and_strings_are_blanked() {
    let check = |text: &str, expected: &str| assert_eq!(code_of(text), expected, "{text}");
    check("a // unsafe\nb", "a          \nb");
    check("a /* x /* y */ \n z */ b", "a              \n      b");
    check(r#"f("un\"safe") + g"#, r#"f(          ) + g"#);
    check("r#\"a\"b\"# c", "         c");
    check("b'\\'' x 'y' z", "      x     z");
    check("fn a<'a>(x: &'a str)", "fn a<'a>(x: &'a str)");
    check("for\"x\"", "for   ");
    check("bar(b\"x\", br\"y\")", "bar(    ,      )");
}

#[test]
fn words_are_whole() {
    assert!(has_words("x = fs::write(y)", "fs::write"));
    assert!(!has_words("x = fs::write_all(y)", "fs::write"));
    assert!(!has_words("#![allow(unsafe_code)]", "unsafe"));
}
