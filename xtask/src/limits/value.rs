//! Values of constants, from their expressions: numbers, times, and sums, products and shifts of them.

use std::collections::BTreeMap;

/// Names within names, at most: a constant that is made of itself does not compile.
const DEPTH_MAX: u32 = 8;

/// Expressions by file and name.
#[derive(Debug, Default)]
pub(super) struct Constants {
    by_file: BTreeMap<(String, String), String>,
    /// By name alone, where only one file has it.
    by_name: BTreeMap<String, Option<(String, String)>>,
}

impl Constants {
    /// Takes one in.
    pub(super) fn add(&mut self, file: &str, name: &str, expression: &str) {
        self.by_file.insert((file.to_owned(), name.to_owned()), expression.to_owned());
        let one = Some((file.to_owned(), expression.to_owned()));
        self.by_name.entry(name.to_owned()).and_modify(|known| *known = None).or_insert(one);
    }

    fn find(&self, file: &str, name: &str) -> Option<(String, String)> {
        let here = self.by_file.get(&(file.to_owned(), name.to_owned()));
        here.map(|found| (file.to_owned(), found.clone()))
            .or_else(|| self.by_name.get(name).cloned().flatten())
    }
}

/// A number, or a time in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Number(i128),
    Micros(i128),
}

/// The value of `expression` as people read it; the expression itself where it is more than a sum.
pub(super) fn shown(constants: &Constants, file: &str, name: &str, expression: &str) -> String {
    let mut reader = Reader { constants, file, rest: expression, depth: 0 };
    let value = reader.sum().filter(|_| reader.rest.trim().is_empty());
    match value {
        Some(Value::Micros(micros)) => time(micros),
        Some(Value::Number(number)) if name.split('_').any(|word| word == "BYTES") => bytes(number),
        Some(Value::Number(number)) => grouped(number),
        None => format!("`{}`", expression.replace('|', "\\|")),
    }
}

struct Reader<'a> {
    constants: &'a Constants,
    file: &'a str,
    rest: &'a str,
    depth: u32,
}

impl Reader<'_> {
    fn eat(&mut self, what: &str) -> bool {
        let rest = self.rest.trim_start();
        match rest.strip_prefix(what) {
            Some(after) => {
                self.rest = after;
                true
            }
            None => false,
        }
    }

    /// Shifts bind loosest, then sums, then products, as in Rust.
    fn sum(&mut self) -> Option<Value> {
        let mut value = self.terms()?;
        loop {
            if self.eat("<<") {
                let by = self.terms()?;
                value = number(value, by, |one, by| one.checked_shl(u32::try_from(by).ok()?))?;
            } else {
                return Some(value);
            }
        }
    }

    fn terms(&mut self) -> Option<Value> {
        let mut value = self.product()?;
        loop {
            if self.eat("+") {
                let other = self.product()?;
                value = number(value, other, i128::checked_add)?;
            } else if self.eat("-") {
                let other = self.product()?;
                value = number(value, other, i128::checked_sub)?;
            } else {
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<Value> {
        let mut value = self.factor()?;
        loop {
            if self.eat("*") {
                let other = self.factor()?;
                value = number(value, other, i128::checked_mul)?;
            } else if self.eat("/") {
                let other = self.factor()?;
                value = number(value, other, i128::checked_div)?;
            } else {
                return Some(value);
            }
        }
    }

    fn factor(&mut self) -> Option<Value> {
        let value = self.plain()?;
        while self.eat("as ") {
            self.word();
        }
        Some(value)
    }

    fn plain(&mut self) -> Option<Value> {
        if self.eat("(") {
            let value = self.sum()?;
            return self.eat(")").then_some(value);
        }
        for (call, micros) in [
            ("Duration::from_micros(", 1),
            ("Duration::from_millis(", 1_000),
            ("Duration::from_secs(", 1_000_000),
            ("Duration::from_mins(", 60_000_000),
            ("Duration::from_hours(", 3_600_000_000),
        ] {
            if self.eat(call) {
                let Value::Number(count) = self.sum()? else { return None };
                return self.eat(")").then_some(Value::Micros(count.checked_mul(micros)?));
            }
        }
        let word = self.word();
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return literal(&word).map(Value::Number);
        }
        if word.contains("::MAX") {
            return None;
        }
        let name = word.rsplit("::").next()?;
        let (file, expression) = self.constants.find(self.file, name)?;
        let depth = self.depth + 1;
        let mut inner = Reader { constants: self.constants, file: &file, rest: &expression, depth };
        let value = if depth < DEPTH_MAX { inner.sum()? } else { return None };
        inner.rest.trim().is_empty().then_some(value)
    }

    fn word(&mut self) -> String {
        let rest = self.rest.trim_start();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        self.rest = after;
        word.to_owned()
    }
}

/// `one` and `two` joined; a time may only be multiplied or divided by a number.
fn number(one: Value, two: Value, join: impl Fn(i128, i128) -> Option<i128>) -> Option<Value> {
    match (one, two) {
        (Value::Number(one), Value::Number(two)) => join(one, two).map(Value::Number),
        (Value::Micros(one), Value::Number(two)) => join(one, two).map(Value::Micros),
        (Value::Number(_) | Value::Micros(_), Value::Micros(_)) => None,
    }
}

fn literal(word: &str) -> Option<i128> {
    let word = word.replace('_', "");
    if let Some(hex) = word.strip_prefix("0x") {
        return i128::from_str_radix(hex, 16).ok();
    }
    let digits = word.find(|c: char| !c.is_ascii_digit()).map_or(word.as_str(), |end| &word[..end]);
    digits.parse().ok()
}

fn time(micros: i128) -> String {
    for (unit, size) in
        [("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000)]
    {
        if micros >= size && micros % size == 0 {
            return format!("{} {unit}", grouped(micros / size));
        }
    }
    format!("{} µs", grouped(micros))
}

fn bytes(number: i128) -> String {
    for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if number >= size && number % size == 0 {
            return format!("{} {unit}", grouped(number / size));
        }
    }
    format!("{} bytes", grouped(number))
}

/// Digits in groups of three.
fn grouped(number: i128) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}
