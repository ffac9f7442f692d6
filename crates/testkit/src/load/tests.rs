use super::*;
use crate::{Behaviour, Service};

fn site() -> Site {
    Site::host().unwrap()
}

fn serve(behaviour: Behaviour) -> Service {
    Service::start(&site(), &Addr::tcp("127.0.0.1:0"), behaviour).unwrap()
}

fn load(service: &Service, in_flight: u32) -> Load {
    Load::new(service.addr(), Pace::InFlight(in_flight)).limit(Duration::from_secs(5))
}

#[test]
fn good_connections_are_good() {
    let service = serve(Behaviour::Echo);
    let report = load(&service, 8).total(200).payload(100_000).run(&site()).unwrap();
    assert_eq!((report.count(Outcome::Ok), report.failures()), (200, 0), "{report}");
    assert_eq!(service.accepted(), 200);
    assert!(report.percentile(0.5) > Duration::ZERO);
    assert!(report.percentile(0.5) <= report.percentile(1.0));
}

#[test]
fn a_rate_is_kept() {
    let service = serve(Behaviour::Echo);
    let begin = Instant::now();
    let running = Load::new(service.addr(), Pace::PerSecond(200)).start(&site()).unwrap();
    running.wait_for_ok(100).unwrap();
    assert!(begin.elapsed() > Duration::from_millis(450), "{:?}", begin.elapsed());
    let report = running.stop().unwrap();
    assert_eq!(report.failures(), 0, "{report}");
}

#[test]
fn each_failure_has_its_class() {
    let refused = serve(Behaviour::Echo);
    let gone = refused.addr().clone();
    drop(refused);
    let report = Load::new(&gone, Pace::InFlight(2)).total(10).run(&site()).unwrap();
    assert_eq!(report.count(Outcome::Refused), 10, "{report}");

    let service = serve(Behaviour::Reset);
    let report = load(&service, 2).total(10).run(&site()).unwrap();
    assert_eq!(report.count(Outcome::Reset), 10, "{report}");

    let service = serve(Behaviour::Say("short".into()));
    let report = load(&service, 2).total(10).run(&site()).unwrap();
    assert_eq!(report.count(Outcome::Short), 10, "{report}");

    let service = serve(Behaviour::Say("w".repeat(64)));
    let report = load(&service, 2).total(10).run(&site()).unwrap();
    assert_eq!(report.count(Outcome::Wrong), 10, "{report}");

    let service = serve(Behaviour::Silent);
    let report = load(&service, 10).total(10).limit(Duration::from_millis(300)).run(&site()).unwrap();
    assert_eq!(report.count(Outcome::TimedOut), 10, "{report}");
}

#[test]
fn unix_sockets_and_a_full_queue() {
    let dir = tempfile::tempdir().unwrap();
    let addr = Addr::unix(dir.path().join("s"));
    let service = Service::start(&site(), &addr, Behaviour::Echo).unwrap();
    let report = load(&service, 16).total(200).run(&site()).unwrap();
    assert_eq!((report.records.len(), report.failures()), (200, 0), "{report}");
    let full = Addr::Abstract(format!("portway-testkit-{}", std::process::id()));
    let _service = Service::start(&site(), &full, Behaviour::NeverAccept { backlog: 1 }).unwrap();
    let report =
        Load::new(&full, Pace::InFlight(5)).total(5).limit(Duration::from_millis(300)).run(&site()).unwrap();
    assert_eq!(report.count(Outcome::TimedOut), 5, "{report}");
}

#[test]
fn a_gap_is_seen() {
    let service = serve(Behaviour::Echo);
    let addr = service.addr().clone();
    let running = Load::new(&addr, Pace::PerSecond(500)).start(&site()).unwrap();
    running.wait_for_ok(50).unwrap();
    drop(service);
    std::thread::sleep(Duration::from_millis(200));
    let _service = Service::start(&site(), &addr, Behaviour::Echo).unwrap();
    running.wait_for_ok(50).unwrap();
    let report = running.stop().unwrap();
    assert!(report.count(Outcome::Refused) > 0, "{report}");
    assert!(report.longest_gap() >= Duration::from_millis(150), "{:?}", report.longest_gap());
}

#[test]
fn a_cut_explains_what_was_open_in_it_and_nothing_else() {
    let ms = Duration::from_millis;
    let record = |at, took, outcome| Record { at: ms(at), took: ms(took), outcome };
    let records = vec![
        record(0, 50, Outcome::Ok),
        record(90, 20, Outcome::Reset),
        record(150, 5, Outcome::Short),
        record(90, 5, Outcome::Reset),
        record(120, 5, Outcome::Refused),
        record(200, 5, Outcome::Reset),
    ];
    let left = Report { records }.unexplained(&[(ms(100), ms(200))]);
    let left: Vec<_> = left.records.iter().map(|record| (record.at, record.outcome)).collect();
    assert_eq!(left, [(ms(90), Outcome::Reset), (ms(120), Outcome::Refused), (ms(200), Outcome::Reset)]);
}
