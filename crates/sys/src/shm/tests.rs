use super::*;

#[test]
fn the_reader_sees_what_the_writer_adds() {
    let (counters, fd) = Counters::create(3).unwrap();
    let view = CountersView::map(fd.as_fd(), 3).unwrap();
    counters.add(1, 0, 5);
    counters.add(1, FIELD_COUNT - 1, u64::MAX);
    counters.add(2, 3, 1);
    assert_eq!(view.read(0), [0; FIELD_COUNT]);
    let mut line = [0; FIELD_COUNT];
    (line[0], line[FIELD_COUNT - 1]) = (5, u64::MAX);
    assert_eq!(view.read(1), line);
    assert_eq!(view.read(1), counters.read(1));
    assert_eq!(view.line_count(), 3);
    counters.clear(1);
    assert_eq!(view.read(1), [0; FIELD_COUNT]);
    drop(counters);
    assert_eq!(view.read(2)[3], 1, "the writer's end leaves the reader its values");
}

#[test]
fn out_of_range_does_nothing() {
    let (counters, fd) = Counters::create(1).unwrap();
    let view = CountersView::map(fd.as_fd(), 1).unwrap();
    for (line, field) in [(1, 0), (0, FIELD_COUNT), (usize::MAX, 0), (0, usize::MAX)] {
        counters.add(line, field, 1);
    }
    assert_eq!(view.read(0), [0; FIELD_COUNT]);
    assert_eq!(view.read(usize::MAX), [0; FIELD_COUNT]);
    for lines in [0, usize::MAX, usize::MAX / 64] {
        assert!(Counters::create(lines).is_err(), "{lines}");
    }
}

#[test]
fn nobody_else_can_write_or_resize() {
    let (_counters, fd) = Counters::create(4).unwrap();
    assert!(rustix::fs::ftruncate(&fd, 64).is_err());
    assert!(rustix::fs::ftruncate(&fd, 1 << 20).is_err());
    assert!(rustix::io::write(&fd, b"x").is_err());
    let writable = Mapping::new(fd.as_fd(), (4, FIELD_COUNT), ProtFlags::READ | ProtFlags::WRITE);
    assert!(writable.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied));
    assert!(rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE).is_err(), "no more seals");
}

#[test]
fn a_reader_refuses_what_could_make_it_fault() {
    let refused = |fd: BorrowedFd<'_>, lines| {
        CountersView::map(fd, lines).is_err_and(|error| error.kind() == io::ErrorKind::InvalidData)
    };
    let (_counters, fd) = Counters::create(4).unwrap();
    assert!(refused(fd.as_fd(), 5) && refused(fd.as_fd(), 3), "another size");

    let unsealed = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&unsealed, u64::try_from(4 * FIELD_COUNT * 8).unwrap()).unwrap();
    assert!(refused(unsealed.as_fd(), 4), "it could shrink");
    rustix::fs::fcntl_add_seals(&unsealed, SealFlags::SHRINK).unwrap();
    assert!(!refused(unsealed.as_fd(), 4));

    let file = tempfile::tempfile().unwrap();
    file.set_len(u64::try_from(4 * FIELD_COUNT * 8).unwrap()).unwrap();
    assert!(refused(file.as_fd(), 4), "an ordinary file");
    let (end, _other) = rustix::pipe::pipe().unwrap();
    assert!(refused(end.as_fd(), 4), "a pipe");

    // Reading a huge page that cannot be had would be a SIGBUS.
    let huge = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB);
    if let Ok(huge) = huge {
        rustix::fs::ftruncate(&huge, 2 << 20).unwrap();
        rustix::fs::fcntl_add_seals(&huge, SealFlags::SHRINK).unwrap();
        assert!(refused(huge.as_fd(), (2 << 20) / (FIELD_COUNT * 8)), "huge pages");
    }
}

/// Fails when: a daemon that adopts a worker of an earlier version takes one device's numbers for another's, or refuses
/// the worker.
#[test]
fn lines_of_the_former_width_are_read_as_they_are() {
    let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    let former = u64::try_from(3 * FORMER_FIELD_COUNT * 8).unwrap();
    rustix::fs::ftruncate(&fd, former).unwrap();
    let words: Vec<u8> = (0..48_u64).flat_map(u64::to_ne_bytes).collect();
    assert_eq!(rustix::io::pwrite(&fd, &words, 0), Ok(words.len()));
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
    let view = CountersView::map(fd.as_fd(), 3).unwrap();
    let line = view.read(1);
    assert_eq!(
        line[..FORMER_FIELD_COUNT],
        std::array::from_fn::<u64, FORMER_FIELD_COUNT, _>(|at| 16 + at as u64)
    );
    assert_eq!(line[FORMER_FIELD_COUNT..], [0; FIELD_COUNT - FORMER_FIELD_COUNT]);
    assert_eq!(view.read(2)[15], 47);
    assert_eq!(view.read(3), [0; FIELD_COUNT]);
}
