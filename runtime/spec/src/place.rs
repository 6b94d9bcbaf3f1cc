//! Where in a JSON text an error is.
//!
//! serde_json says a line and a column, its users think in fields. The way to the field is found in the text, once there is an error: to keep note of it
//! while reading would cost every reader, and a second reader that does would be a tenth of the program.

enum Step {
    /// Of an object; `None` before its name is read.
    Key(Option<String>),
    /// Of a list.
    Index(usize),
}

/// The way to what ends at `line` (from 1) and `column` (in bytes), as serde_json counts them: `process.rlimits[0].type`. Empty for the whole text.
pub fn at(text: &[u8], line: usize, column: usize) -> String {
    let lines = text.split_inclusive(|&byte| byte == b'\n');
    let start: usize = lines.take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let mut rest = &text[..text.len().min(start + column)];
    let mut way: Vec<Step> = Vec::new();
    while let [first, more @ ..] = rest {
        rest = more;
        match (first, way.last_mut()) {
            (b'{', _) => way.push(Step::Key(None)),
            (b'[', _) => way.push(Step::Index(0)),
            (b'}' | b']', _) => drop(way.pop()),
            (b',', Some(Step::Index(index))) => *index += 1,
            (b',', Some(Step::Key(key))) => *key = None,
            (b'"', last) => {
                let end = end_of_string(more);
                if let Some(Step::Key(key @ None)) = last {
                    *key = Some(String::from_utf8_lossy(&more[..end]).into_owned());
                }
                rest = more.get(end + 1..).unwrap_or_default();
            }
            _ => {}
        }
    }
    way.iter().fold(String::new(), |way, step| match step {
        Step::Key(None) => way,
        Step::Key(Some(key)) if way.is_empty() => key.clone(),
        Step::Key(Some(key)) => format!("{way}.{key}"),
        Step::Index(index) => format!("{way}[{index}]"),
    })
}

/// Where its closing quote is.
fn end_of_string(text: &[u8]) -> usize {
    let mut escaped = false;
    let ends = |&byte: &u8| {
        let quote = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        quote
    };
    text.iter().position(ends).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_leads_to_what_was_read_last() {
        let text = b"{\"a\": {\"b\": [1,\n {\"c,\\\"}\": \"x]\\\\\"}], \"d\": 2}, \"e\": {}}";
        let whole = String::from_utf8_lossy(text);
        let second = whole.find('\n').expect("two lines") + 1;
        for (upto, way) in [
            ("", ""),
            ("{\"a\"", "a"),
            ("{\"a\": {\"b\": [1", "a.b[0]"),
            ("{\"a\": {\"b\": [1,\n ", "a.b[1]"),
            ("{\"a\": {\"b\": [1,\n {\"c,\\\"}\": \"x]\\\\\"", "a.b[1].c,\\\"}"),
            ("{\"a\": {\"b\": [1,\n {\"c,\\\"}\": \"x]\\\\\"}", "a.b[1]"),
            ("{\"a\": {\"b\": [1,\n {\"c,\\\"}\": \"x]\\\\\"}]", "a.b"),
            ("{\"a\": {\"b\": [1,\n {\"c,\\\"}\": \"x]\\\\\"}], \"d\": 2", "a.d"),
            ("{\"a\": {\"b\": [1,\n {\"c,\\\"}\": \"x]\\\\\"}], \"d\": 2}, \"e\": {}", "e"),
            (&whole, ""),
        ] {
            assert!(whole.starts_with(upto), "{upto}");
            let (line, column) = if upto.len() < second { (1, upto.len()) } else { (2, upto.len() - second) };
            assert_eq!(at(text, line, column), way, "{upto}");
        }
        assert_eq!(at(b"[\"", 9, 9), "[0]", "beyond the end");
    }
}
