//! The core schema: what a plain scalar means.

use super::NodeValue;

/// Returns the value of a plain (unquoted) scalar.
pub(super) fn resolve(text: &str) -> NodeValue {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return NodeValue::Null,
        "true" | "True" | "TRUE" => return NodeValue::Bool(true),
        "false" | "False" | "FALSE" => return NodeValue::Bool(false),
        _ => {}
    }
    number(text).unwrap_or_else(|| NodeValue::Str(text.to_owned()))
}

/// Returns the number that `text` is in the core schema.
pub(super) fn number(text: &str) -> Option<NodeValue> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return None;
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    match unsigned {
        ".inf" | ".Inf" | ".INF" => {
            return Some(NodeValue::Float(if negative { f64::NEG_INFINITY } else { f64::INFINITY }));
        }
        ".nan" | ".NaN" | ".NAN" if unsigned.len() == text.len() => return Some(NodeValue::Float(f64::NAN)),
        _ => {}
    }
    if !is_decimal(unsigned) {
        return None;
    }
    if unsigned.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(int) = text.parse::<i64>()
    {
        return Some(NodeValue::Int(int));
    }
    text.parse().ok().map(NodeValue::Float)
}

fn radix(digits: &str, base: u32) -> Option<NodeValue> {
    let valid = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
    valid.then(|| i64::from_str_radix(digits, base).map_or(NodeValue::Float(f64::INFINITY), NodeValue::Int))
}

/// `[0-9]+(\.[0-9]*)?` or `\.[0-9]+`, then `([eE][-+]?[0-9]+)?`.
fn is_decimal(text: &str) -> bool {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(text);
    let mut rest = &text[whole..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let count = digits(fraction);
        if whole == 0 && count == 0 {
            return false;
        }
        rest = &fraction[count..];
    } else if whole == 0 {
        return false;
    }
    if rest.is_empty() {
        return true;
    }
    let Some(exponent) = rest.strip_prefix(['e', 'E']) else { return false };
    let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    !exponent.is_empty() && digits(exponent) == exponent.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_schema() {
        for text in
            ["no", "yes", "on", "off", "2024-01-01", "1_000", "0b1", "1.2.3", "e5", "-", "+", ".", "0o8", "12:30"]
        {
            assert_eq!(resolve(text), NodeValue::Str(text.to_owned()), "{text}");
        }
        let ints = [("0", 0), ("-12", -12), ("+7", 7), ("0o17", 15), ("0x1F", 31), ("010", 10)];
        for (text, value) in ints {
            assert_eq!(resolve(text), NodeValue::Int(value), "{text}");
        }
        for (text, value) in [("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("-1e3", -1000.0), (".inf", f64::INFINITY)] {
            assert_eq!(resolve(text), NodeValue::Float(value), "{text}");
        }
        assert_eq!(resolve("99999999999999999999"), NodeValue::Float(1e20));
        assert_eq!(resolve("~"), NodeValue::Null);
        assert_eq!(resolve("True"), NodeValue::Bool(true));
    }
}
