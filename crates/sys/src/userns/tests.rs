use super::*;
use crate::testing::{self, NOBODY};

#[test]
fn maps_translate_both_ways() {
    let map = Extents::parse("         0    1000000      65536\n     65536          5          1\n").unwrap();
    let cases = [
        (0, Some(1_000_000)),
        (65_535, Some(1_065_535)),
        (65_536, Some(5)),
        (65_537, None),
        (u32::MAX, None),
    ];
    for (inside, outside) in cases {
        assert_eq!(map.to_host(inside), outside, "{inside}");
        if let Some(outside) = outside {
            assert_eq!(map.to_inside(outside), Some(inside));
        }
    }
    assert_eq!(map.to_inside(0), None);
    assert_eq!(map.to_inside(999_999), None);
    let whole = Extents::parse("0 0 4294967295").unwrap();
    assert_eq!(whole.to_host(u32::MAX - 1), Some(u32::MAX - 1));
    assert_eq!(whole.to_host(u32::MAX), None);
    assert_eq!(Extents::parse("").unwrap().to_host(0), None, "a new namespace has an empty map");
    // What the kernel never writes must not overflow either.
    assert_eq!(Extents::parse("0 4294967295 9").unwrap().to_host(3), None);
}

#[test]
fn a_malformed_map_is_refused() {
    for text in ["0 0", "0 0 1 2", "a 0 1", "-1 0 1", "0 0 4294967296"] {
        assert_eq!(Extents::parse(text), None, "{text:?}");
    }
}

#[test]
fn own_map() {
    assert!(id_is_mapped(rustix::process::geteuid().as_raw()));
    let map = IdMap::of_pid(std::process::id().try_into().unwrap()).unwrap();
    assert_eq!(map.uids.to_host(0), Some(0));
    assert_eq!(IdMap::of_pid(i32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn an_unprivileged_user_becomes_root() {
    if testing::root() {
        testing::expect_child(Some(NOBODY), || {
            unshare_as_root(true, true).unwrap();
            assert!(rustix::process::geteuid().is_root() && rustix::process::getegid().is_root());
            assert!(id_is_mapped(0) && !id_is_mapped(1) && !id_is_mapped(NOBODY));
            crate::netns::loopback_up().unwrap();
            assert!(
                std::net::TcpListener::bind("127.0.0.1:80").is_ok(),
                "privileged ports of the new namespace"
            );
            let map = IdMap::of_pid(std::process::id().try_into().unwrap()).unwrap();
            assert_eq!((map.uids.to_host(0), map.gids.to_host(1)), (Some(0), None), "seen from inside");
        });
    }
}

#[test]
fn a_threaded_process_is_refused() {
    let result = std::thread::spawn(|| unshare_as_root(false, false)).join().unwrap();
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn the_map_of_another_namespace() {
    if !testing::root() {
        return;
    }
    let (mut ready, to_parent) = io::pipe().unwrap();
    let child = testing::Forked::new(Some(NOBODY), || {
        unshare_as_root(false, false).unwrap();
        io::Write::write_all(&mut &to_parent, b"!").unwrap();
        std::thread::sleep(std::time::Duration::from_secs(1000));
    });
    io::Read::read_exact(&mut ready, &mut [0]).unwrap();
    let map = IdMap::of_pid(child.pid).unwrap();
    assert_eq!((map.uids.to_host(0), map.uids.to_host(1)), (Some(NOBODY), None));
    assert_eq!((map.gids.to_inside(NOBODY), map.gids.to_inside(0)), (Some(0), None));
}
