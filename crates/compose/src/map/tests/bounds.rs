//! Files that ask for more than a server has.

use super::*;

/// Fails when the services of a project together have more instances than one may have, or it has services without end.
#[test]
fn services_and_instances_are_counted() {
    let services = |count: usize, scale: usize| -> String {
        let each = |number| format!("  s{number:05}: {{image: x, scale: {scale}}}\n");
        format!("services:\n{}", (0..count).map(each).collect::<String>())
    };
    assert_eq!(mapped(&services(2, 500), &old()).instances().count(), 1_000);
    let said = fault(&services(3, 400), &old());
    assert!(said.contains("services.s00002: the project has more than 1000 instances"), "{said}");
    let said = fault(&services(1_001, 0), &old());
    assert!(said.contains("services.s01000: the project has more than 1000 services"), "{said}");
}

/// Fails when one secret fills the memory by many replicas.
#[test]
fn files_of_all_replicas_are_counted() {
    let text =
        "services: {a: {image: x, command: y, scale: 200, secrets: [s]}}\nsecrets: {s: {file: ./big}}\n";
    let mut setting = old();
    setting.files.insert(PathBuf::from("/srv/shop/big"), vec![0; 1 << 20]);
    let said = fault(text, &setting);
    assert!(
        said.contains("services.a.secrets[0]: the files of all instances have more than 128 MiB"),
        "{said}"
    );
    assert_eq!(mapped(&text.replace("200", "3"), &setting).instances().count(), 3);
}

/// Fails when a few lines make millions of devices.
#[test]
fn ports_of_all_replicas_are_counted() {
    let text = |scale: u32| format!("services: {{a: {{image: x, ports: ['1-5000'], scale: {scale}}}}}\n");
    let said = fault(&text(1_000), &old());
    assert!(said.contains("services.a: the project has more than 20000 ports"), "{said}");
    assert_eq!(mapped(&text(2), &old()).instances().count(), 2);
}
