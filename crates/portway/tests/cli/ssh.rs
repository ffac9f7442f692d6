//! `portway ssh`: what it prints and refuses, without a server.

use crate::support::Place;

#[test]
fn logins_are_explained_in_every_format() {
    let place = Place::new();
    let mut text = String::new();
    for arguments in [
        &["c1"][..],
        &["%r:bob@c1.dev~adm"],
        &["keep=work,c1"],
        &["~t1+alpine/edge+m2+c0+n+%web,db", "--format", "json"],
        &["+t1+ubuntu/24.04+m4+vm+priv"],
        &["/rm-f/c1.dev", "--format", "yaml"],
        &["/explain/keep=work,c1"],
        &["%shell"],
        &["%shell", "--dialect", "0.10"],
        &["/shell", "--dialect", "0.7", "--format", "csv"],
        &["+t1+m2+%web", "--format", "csv"],
        &["c_1"],
    ] {
        text.push_str(&place.run(&[&["ssh", "explain"], arguments].concat()));
        text.push('\n');
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_malformed_login_is_a_usage_error_with_its_column() {
    let place = Place::new();
    let long = "x".repeat(5000);
    let mut text = String::new();
    for login in ["", "+t1+adm", "+t1+m", "c1%4", "-oProxyCommand=x@", "c1\u{1b}[2J", "/foo/bar", &long] {
        let said = place.run(&["ssh", "explain", login]);
        assert!(said.ends_with("[exit 2]\n"), "{said}");
        let (_, answer) = said.split_once('\n').unwrap();
        assert!(answer.lines().count() <= 3 && !answer.contains('\u{1b}') && answer.len() < 300, "{said}");
        text.push_str(answer);
        text.push('\n');
    }
    text.push_str(&place.run(&["ssh", "explain", "c1", "--dialect", "0.8"]));
    insta::assert_snapshot!(text);
}

#[test]
fn dialects_are_completed() {
    let place = Place::new();
    let said = place.run(&["complete-words", "--", "ssh", "explain", "--dialect", "0"]);
    assert!(said.ends_with("0\n0.7\n0.10\n"), "{said}");
}
