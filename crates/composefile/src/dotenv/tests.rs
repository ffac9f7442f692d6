use super::*;

fn read(text: &str) -> Result<Variables, DotenvFault> {
    let lookup = |name: &str| (name == "H").then(|| "hv".to_owned());
    parse(text, &mut Scope { lookup: &lookup, unset: &mut |_| {} })
}

/// One variable A, or what is wrong.
fn value(text: &str) -> String {
    match read(text) {
        Ok(list) => list.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("|"),
        Err(fault) => format!("!{fault}"),
    }
}

/// Fails when a comment, a quote or an escape is read in another way than the oracle reads it.
#[test]
fn the_dialect() {
    let cases = [
        ("A=1", "A=1"),
        ("A = 1", "A=1"),
        ("export A=1", "A=1"),
        ("A: 1\nB:2", "A=1|B=2"),
        ("A=a # c", "A=a"),
        ("A=a#c", "A=a#c"),
        ("A= #x", "A=#x"),
        ("A=\"a # c\" # d", "A=a # c"),
        ("A=\"a\\nb\\q\\\\\"", "A=a\nb\\q\\"),
        ("A='a\\nb $H'", "A=a\\nb $H"),
        ("A='a\\'b'", "A=a'b"),
        ("A=\"\\$H $H\"", "A=$H hv"),
        ("B=1\nA=\"x $B\"", "B=1|A=x 1"),
        ("A=$H ${Z:-x} $$B", "A=hv x $B"),
        ("H\nA\nB=1", "H=hv|B=1"),
        ("A=", "A="),
        ("# c\n\n  A=1  \r\n", "A=1"),
        ("\u{feff}A=1", "A=1"),
        ("A='multi\nline'\nB=2", "A=multi\nline|B=2"),
        ("1A=2\nA-B=3\nA.B=4\nA[0]=5", "1A=2|A-B=3|A.B=4|A[0]=5"),
        ("A=it's {\"k\": 1}", "A=it's {\"k\": 1}"),
    ];
    for (text, wanted) in cases {
        assert_eq!(value(text), wanted, "{text:?}");
    }
}

#[test]
fn faults_have_their_line() {
    assert_eq!(value("\nA B=1"), "!line 2: the name `A B` has a blank in it");
    assert_eq!(value("A=1\nB=\"un"), "!line 2: nothing closes the quote of \"un");
    assert_eq!(value("A/B=1"), "!line 1: `/` in the name `A/B`");
    assert_eq!(value("A=${"), "!line 1: malformed interpolation in `${` (a literal $ is written $$)");
}
