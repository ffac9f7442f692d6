use std::io::Write as _;
use std::time::{Duration, Instant};

use super::*;
use crate::check;

fn serve(behaviour: Behaviour) -> (Site, Service) {
    let site = Site::host().unwrap();
    let service = Service::start(&site, &Addr::tcp("127.0.0.1:0"), behaviour).unwrap();
    (site, service)
}

#[test]
fn echo_and_half_close() {
    let (site, service) = serve(Behaviour::Echo);
    check::echo(&check::dial(&site, service.addr()).unwrap(), 3_000_000, 1).unwrap();
    let (site, service) = serve(Behaviour::AnswerAtEnd);
    check::half_close(&check::dial(&site, service.addr()).unwrap(), 3_000_000, 1).unwrap();
    // A service that answers at once and closes fails the same check.
    let (site, service) = serve(Behaviour::Say("x".into()));
    assert!(check::half_close(&check::dial(&site, service.addr()).unwrap(), 100, 1).is_err());
}

#[test]
fn half_close_by_the_service_is_recorded() {
    let (pattern, length) = (Pattern::new(5), 200_000);
    let (site, service) = serve(Behaviour::Source { pattern, length });
    let stream = check::dial(&site, service.addr()).unwrap();
    check::half_close_by_service(&stream, pattern, length, b"after your end").unwrap();
    let begin = Instant::now();
    while service.records().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(5));
        thread::yield_now();
    }
    assert_eq!(service.records(), [b"after your end"]);
}

#[test]
fn counting_naming_and_resetting() {
    let (site, service) = serve(Behaviour::Count);
    let stream = check::dial(&site, service.addr()).unwrap();
    (&stream).write_all(&[7; 12345]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(check::read_all(&stream).unwrap(), 12345_u64.to_le_bytes());
    let (site, service) = serve(Behaviour::Say("me".into()));
    assert_eq!(check::read_all(&check::dial(&site, service.addr()).unwrap()).unwrap(), b"me");
    let (site, service) = serve(Behaviour::Reset);
    let stream = check::dial(&site, service.addr()).unwrap();
    (&stream).write_all(b"x").unwrap();
    check::expect_reset(&stream).unwrap();
}

#[test]
fn a_dropped_service_leaves_nobody_waiting() {
    let (site, service) = serve(Behaviour::Silent);
    let stream = check::dial(&site, service.addr()).unwrap();
    let begin = Instant::now();
    while service.open() == 0 {
        assert!(begin.elapsed() < Duration::from_secs(5));
        thread::yield_now();
    }
    let addr = service.addr().clone();
    drop(service);
    assert_eq!(check::read_all(&stream).unwrap(), b"");
    assert!(check::dial(&site, &addr).is_err());
}
