use std::process::{Command, Stdio};

use super::*;

fn build() -> Build {
    let keys = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    Build {
        name: "shop-web".to_owned(),
        context: "/srv/shop; reboot".to_owned(),
        dockerfile: Dockerfile::File("/srv/shop/$(id).Dockerfile".into()),
        args: keys(&[("A", "1 2"), ("B", "--rm")]),
        target: Some("--privileged".to_owned()),
        no_cache: true,
        pull: true,
        platform: Some("linux/arm64".to_owned()),
        labels: keys(&[("l", "v")]),
        secrets: vec![
            Secret { id: "f".to_owned(), from: SecretSource::File("/srv/shop/f".to_owned()) },
            Secret {
                id: "v".to_owned(),
                from: SecretSource::Variable("V".to_owned(), Some("hidden".to_owned())),
            },
        ],
        network: Some("none".to_owned()),
        more: vec!["--add-host=a:10.0.0.1".to_owned()],
        tags: vec!["x:1".to_owned()],
        ..Build::default()
    }
}

fn paths() -> Paths<'static> {
    Paths {
        instructions: Path::new("/t/in"),
        rootfs: Path::new("/t/rootfs.tar"),
        id: Path::new("/t/id"),
        secrets: Path::new("/t/secrets"),
    }
}

/// Fails when something of a file becomes an argument of its own, a builder gets what it does not know, or anybody may read
/// the value of a variable or of a secret.
#[test]
fn a_builder_is_told_in_words_of_its_own() {
    let output = Output { is_quiet: true, progress: Some("plain") };
    let of = |builder: Builder| {
        let words = builder.build(&build(), paths(), &output);
        words.iter().map(|word| word.to_str().expect("text").to_owned()).collect::<Vec<String>>()
    };
    let common = [
        "--tag=shop-web",
        "--iidfile=/t/id",
        "--tag=x:1",
        "--file=/srv/shop/$(id).Dockerfile",
        "--build-arg=A",
        "--build-arg=B",
        "--secret=id=f,src=/srv/shop/f",
        "--secret=id=v,src=/t/secrets/1",
        "--label=l=v",
        "--target=--privileged",
        "--platform=linux/arm64",
        "--network=none",
    ];
    let end = ["--add-host=a:10.0.0.1", "--no-cache", "--pull", "--quiet", "/srv/shop; reboot"];
    let with = |own: &[&str]| {
        let words = ["build"].iter().chain(&common).chain(own).chain(&end);
        words.map(|word| (*word).to_owned()).collect::<Vec<String>>()
    };
    let layers = ["--format=docker", "--layers=true"];
    let tar = "--output=type=tar,dest=/t/rootfs.tar";
    assert_eq!(of(Builder::Buildah), with(&[layers[0], layers[1], tar]));
    assert_eq!(of(Builder::Podman), with(&layers));
    assert_eq!(of(Builder::Docker), with(&["--progress=plain"]));
    assert!(!format!("{:?}", build().secrets).contains("hidden"));
    let inline = Build { dockerfile: Dockerfile::Inline("FROM x".to_owned()), ..build() };
    let words = Builder::Podman.build(&inline, paths(), &output);
    assert!(words.contains(&"--file=/t/in".into()), "{words:?}");
}

/// Fails when what an image runs is read of one builder only.
#[test]
fn every_builder_says_what_an_image_runs() {
    let config = serde_json::json!({
        "Entrypoint": ["/app"], "Cmd": null, "Env": ["PATH=/bin", "A=b=c"], "WorkingDir": "/w", "User": "7:8",
        "StopSignal": "SIGINT", "Healthcheck": {"Test": ["CMD", "true"], "Interval": 2_000_000_000u64},
    });
    let docker = serde_json::json!([{"Config": config, "Architecture": "amd64"}]);
    let buildah = serde_json::json!({"OCIv1": {}, "Docker": {"config": config, "architecture": "amd64"}});
    let mut plain = config.clone();
    let health = plain.as_object_mut().expect("an object").remove("Healthcheck");
    let podman = serde_json::json!([{"Config": plain, "Architecture": "amd64", "HealthCheck": health}]);
    let read = inspected(&docker).expect("read");
    assert_eq!((read.config.entrypoint.as_slice(), read.config.cmd.len()), (&["/app".to_owned()][..], 0));
    assert_eq!((read.config.user.as_str(), read.architecture.as_str()), ("7:8", "x86_64"));
    assert_eq!(read.config.health.as_ref().map(|health| health.interval), Some(2_000_000_000));
    assert_eq!(inspected(&buildah).as_ref(), Some(&read));
    assert_eq!(inspected(&podman).as_ref(), Some(&read));
    let text = serde_json::to_string(&read.config).expect("JSON");
    let properties = Keys::from([(CONFIG.to_owned(), text)]);
    assert_eq!(of_properties(&properties), Some(read.config));
    for nothing in [serde_json::json!([]), serde_json::json!({}), serde_json::json!("x")] {
        assert_eq!(inspected(&nothing), None);
    }
}

/// Fails when another program cannot read the archive.
#[test]
fn the_archive_is_one() {
    let image = Inspected { config: Config::default(), architecture: "x86_64".to_owned() };
    let dir = tempfile::tempdir().expect("a folder");
    let list = |bytes: &[u8]| {
        let file = dir.path().join("a.tar");
        std::fs::write(&file, bytes).expect("written");
        let listed = Command::new("tar").arg("-tvf").arg(&file).stdin(Stdio::null()).output().expect("tar");
        assert!(listed.status.success(), "{listed:?}");
        String::from_utf8(listed.stdout).expect("text")
    };
    let metadata = tar::metadata(&image, "shop", &build(), "0a");
    assert_eq!(metadata, tar::metadata(&image, "shop", &build(), "0a"));
    assert_ne!(metadata, tar::metadata(&image, "shop", &build(), "0b"));
    let listed = list(&metadata);
    assert!(listed.contains("-rw-r--r-- 0/0") && listed.contains("metadata.yaml"), "{listed}");
    let mut folders = tar::folders();
    folders.resize(folders.len() + 1024, 0);
    let listed = list(&folders);
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').next_back()).collect();
    assert_eq!(names, ["dev/", "proc/", "sys/"]);
    assert!(listed.lines().all(|line| line.starts_with("drwxr-xr-x 0/0")), "{listed}");
}

/// Fails when an image is sent that another project has given the same name.
#[test]
fn what_is_sent_is_known_by_its_id() {
    let quiet = Output { is_quiet: true, progress: None };
    for builder in Builder::ALL {
        let mark = builder.mark("sha256:0a1b");
        assert_eq!(builder.marked(&mark), Some("0a1b"));
        for other in Builder::ALL.into_iter().filter(|other| *other != builder) {
            assert_eq!(other.marked(&mark), None, "another store");
        }
        for odd in ["", " ", " --all", " ../x", "  0a"] {
            assert_eq!(builder.marked(&format!("{}{odd}", builder.program())), None, "{odd:?}");
        }
        let calls = builder.push("0a1b", "r.example/shop/app:1", &quiet);
        assert!(calls[0].contains(&"0a1b".to_owned()), "{calls:?}");
        assert!(calls.last().is_some_and(|call| call[..2] == ["push", "--quiet"]), "{calls:?}");
    }
}
