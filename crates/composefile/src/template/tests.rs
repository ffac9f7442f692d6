use super::*;

fn with(text: &str) -> Result<String, TemplateFault> {
    let lookup = |name: &str| match name {
        "A" => Some("av".to_owned()),
        "E" => Some(String::new()),
        _ => None,
    };
    substitute(text, &mut Scope { lookup: &lookup, unset: &mut |_| {} })
}

/// Fails when an operator reads an empty value as the others do.
#[test]
fn every_operator_with_a_value_an_empty_one_and_none() {
    let cases = [
        ("$A ${A} $A-b", "av av av-b"),
        ("${A:-d}${E:-d}${N:-d}", "avdd"),
        ("${A-d}|${E-d}|${N-d}", "av||d"),
        ("${A:+r}|${E:+r}|${N:+r}", "r||"),
        ("${A+r}|${E+r}|${N+r}", "r|r|"),
        ("${A:?m}${E?m}", "av"),
        ("$$A $ A a$ $1 $(A)", "$A $ A a$ $1 $(A)"),
        ("$$$A $$$$A", "$av $$A"),
        ("${N:-${A}} ${N:-${M:-x}} ${N:-a}b}", "av x ab}"),
        ("${N:-{}} ${N:-a:-b} ${N-a:-b} ${N:-$$x}", "{} a:-b a:-b $x"),
        ("${A:+${A}x} é$A", "avx éav"),
    ];
    for (text, wanted) in cases {
        assert_eq!(with(text).as_deref(), Ok(wanted), "{text}");
    }
}

#[test]
fn what_is_malformed_or_missing_is_said() {
    for text in ["${A", "${}", "${A B}", "${1}", "${A:x}", "${A!}", "${Aé}"] {
        assert!(matches!(with(text), Err(TemplateFault::Malformed(_))), "{text}");
    }
    assert_eq!(with("${N:?why $A}").unwrap_err().to_string(), "the variable N must be set: why av");
    assert_eq!(with("${E:?}").unwrap_err().to_string(), "the variable E must be set");
    assert_eq!(with("${A:-${N:?x}}"), Ok("av".to_owned()), "a default that is not needed is not read");
}

/// Fails without the bounds: the first would overflow the stack, the second fill the memory.
#[test]
fn nesting_and_growth_end() {
    let deep = "${N:-".repeat(100_000) + &"}".repeat(100_000);
    assert_eq!(with(&deep), Err(TemplateFault::TooDeep));
    let long = |_: &str| Some("x".repeat(100_000));
    let text = "$A".repeat(100);
    let made = substitute(&text, &mut Scope { lookup: &long, unset: &mut |_| {} });
    assert_eq!(made, Err(TemplateFault::TooLong));
}

fn listed(text: &str) -> Vec<Variable> {
    let mut listed = Vec::new();
    variables(text, &mut |variable| listed.push(variable));
    listed
}

/// Fails when each level is listed with all that stands in it: the list would take the square of the text.
#[test]
fn the_list_of_variables_ends_where_nesting_does() {
    let deep = "${N:-".repeat(100_000) + &"}".repeat(100_000);
    assert_eq!(listed(&deep).len(), MAX_DEPTH + 1);
}

/// Fails when a second place takes a default away.
#[test]
fn a_variable_of_two_places_is_one() {
    let mut all = listed("${A:-x} ${A:?y} ${A:-z} ${A:+w}").into_iter();
    let mut one = all.next().expect("the first");
    all.for_each(|other| one.join(other));
    assert_eq!((one.required, one.default.as_str(), one.alternate.as_str()), (true, "x", "w"));
}

#[test]
fn variables_are_listed_with_what_is_said_of_them() {
    let listed = listed("$A ${B:-x ${C}} ${D:?why} ${E:+alt} $$F");
    let names: Vec<&str> = listed.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["A", "B", "D", "E", "C"]);
    assert_eq!(listed[1].default, "x ${C}");
    assert!(listed[2].required);
    assert_eq!(listed[3].alternate, "alt");
}
