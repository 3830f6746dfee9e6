//! Requests answered by endpoints that do as they are told, on a clock that does not run by itself.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::backend::{Answer, CallError, Routing};
use crate::money::Usd;
use crate::provider::{FailureKind, FinishReason, Input, Response, Sample};
use crate::store::MemoryStore;

/// What an endpoint does.
#[derive(Clone, Debug)]
enum Does {
    Answer,
    /// So many seconds later.
    Late(u64),
    /// One choice only.
    Short,
    Fail(FailureKind),
    /// A bill far above the bound, so many seconds later.
    Dear(u64),
    /// It fails, and that may be billed.
    Lose(FailureKind),
    /// It asks for a wait of seconds.
    Limited(u64),
    /// No answer in time, after a second; it may be billed.
    TimeOut,
    Hang,
    /// As another model.
    As(&'static str),
}

type Plot = Box<dyn Fn(u64) -> Does + Send + Sync>;

/// An endpoint: what it does with each request, in the order of coming (from 1).
struct Stub {
    plot: Plot,
    several: bool,
    latency: Duration,
    /// (first sample, how many)
    calls: Mutex<Vec<(usize, u32)>>,
}

impl Backend for Stub {
    fn source(&self) -> &'static str {
        "http"
    }

    fn several(&self, _request: &Request) -> bool {
        self.several
    }

    fn call<'a>(&'a self, request: &'a Request, first: usize) -> Answer<'a> {
        Box::pin(async move {
            let n = request.n - first as u32;
            let number = {
                let mut calls = self.calls.lock().unwrap();
                calls.push((first, n));
                calls.len() as u64
            };
            tokio::time::sleep(self.latency).await;
            let fail = |kind, may_be_billed, wish: Option<u64>| {
                let retry_after = wish.map(Duration::from_secs);
                let error = CallError::unbilled(Failure::new(kind, kind.word()));
                Err(CallError { may_be_billed, retry_after, ..error })
            };
            let (mut model, mut prompt_tokens) = (None, 10);
            let samples = match (self.plot)(number) {
                Does::Answer => n,
                Does::Late(seconds) => {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    n
                }
                Does::Dear(seconds) => {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    prompt_tokens = 10_000;
                    n
                }
                Does::Short => 1,
                Does::As(name) => {
                    model = Some(name.to_owned());
                    n
                }
                Does::Fail(kind) => return fail(kind, false, None),
                Does::Lose(kind) => return fail(kind, true, None),
                Does::Limited(wish) => return fail(FailureKind::RateLimit, false, Some(wish)),
                Does::TimeOut => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    return fail(FailureKind::Timeout, true, None);
                }
                Does::Hang => std::future::pending().await,
            };
            let sample = |at| Sample::new(format!("{at}"), FinishReason::STOP, 2);
            let samples = (first..first + samples as usize).map(sample).collect();
            Ok(Response { samples, prompt_tokens, model, ..Response::default() })
        })
    }
}

/// A runner for one model `m` at endpoints `a`, `b`, ...
struct Stage {
    runner: Arc<Runner>,
    stubs: Vec<Arc<Stub>>,
    purse: Arc<Purse>,
    endpoints: Endpoints,
}

fn always(does: Does) -> Plot {
    Box::new(move |_| does.clone())
}

impl Stage {
    fn new(plots: Vec<Plot>) -> Stage {
        Stage::with(plots, true, |_| {}, |_| {})
    }

    fn with(plots: Vec<Plot>, several: bool, endpoint: impl Fn(&mut Endpoint), model: impl Fn(&mut Model)) -> Stage {
        let stub = |plot| Stub { plot, several, latency: Duration::from_millis(100), calls: Mutex::default() };
        let stubs: Vec<Arc<Stub>> = plots.into_iter().map(|plot| Arc::new(stub(plot))).collect();
        let list = (0..stubs.len()).map(|at| {
            let name = char::from(b'a' + at as u8).to_string();
            let mut one = Endpoint::at(&name, "http://127.0.0.1:1/v1");
            endpoint(&mut one);
            one
        });
        let mut endpoints = Endpoints::mock();
        endpoints.list = list.collect();
        let mut kept = Endpoints::standard().model("gpt-4o").unwrap();
        (kept.name, kept.id) = ("m".into(), "m".into());
        kept.endpoints = (0..stubs.len()).collect();
        kept.price = Some(Price::flat(Usd::from_pico(1_000_000), Usd::from_pico(1_000_000)));
        model(&mut kept);
        endpoints.groups.insert("shared".into(), Rates::default());
        let mut opening = Opening::new(32);
        for (at, stub) in stubs.iter().enumerate() {
            let mut limit = Limit::new("x", &endpoints.list[at].rates, opening.now);
            limit.window = Some(Window::new(opening.run.1));
            let limit = opening.throttle.add_limit(limit);
            opening.backends.insert(at, (stub.clone(), limit));
        }
        let (seats, learnt) = (opening.seats(&endpoints, &kept, None).unwrap(), opening.learnt(&kept));
        let service = Service {
            price: kept.price.unwrap(),
            chat: true,
            vendor: false,
            by_family: false,
            model: kept,
            seats,
            turns: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            learnt,
            bulk_price: OnceLock::new(),
        };
        let runner = Runner {
            store: MemoryStore::new(),
            services: RwLock::new(vec![Arc::new(service)]),
            flights: Mutex::default(),
            throttle: opening.throttle.clone(),
            opening: Mutex::new(opening),
            wire: Semaphore::new(32),
            concurrency: 32,
            bought: super::Bought::new(),
            stop: AtomicBool::new(false),
            stopped: Notify::new(),
            strangers: Mutex::default(),
            bulk: OnceLock::new(),
        };
        let purse = Purse::new(Some("1".parse().unwrap()), false, Usd::ZERO);
        Stage { runner: Arc::new(runner), stubs, purse, endpoints }
    }

    fn service(&self) -> Arc<Service> {
        self.runner.service("m").unwrap()
    }

    async fn ask(&self, text: &str, n: u32) -> Result<Answered, Failure> {
        self.ask_as(Wish::default(), text, n).await
    }

    async fn ask_as(&self, wish: Wish, text: &str, n: u32) -> Result<Answered, Failure> {
        self.ask_of(&self.service(), wish, text, n).await
    }

    /// The model for a group of requests.
    fn group(&self) -> Arc<Service> {
        self.runner.open_under(&self.endpoints, self.service().model.clone(), None, true).unwrap()
    }

    async fn ask_of(&self, service: &Service, wish: Wish, text: &str, n: u32) -> Result<Answered, Failure> {
        let request = request(text, n);
        let print = service.fingerprint(&request);
        let worst = service.worst(&request, self.runner.store.stored(&print).unwrap().len(), false);
        let Admission::Go(mut hold) = self.purse.admit(worst, worst) else { panic!("not admitted") };
        let answered = self.runner.answer_as(wish, service, &request, &print, "scope", &mut hold).await.unwrap();
        drop(hold);
        if self.purse.held() == Usd::ZERO {
            assert_eq!(self.runner.store.spent("scope").unwrap().total(), self.purse.spent(), "the ledger knows all");
        }
        answered
    }

    fn calls(&self) -> Vec<usize> {
        self.stubs.iter().map(|stub| stub.calls.lock().unwrap().len()).collect()
    }
}

fn request(text: &str, n: u32) -> Request {
    let message = crate::provider::Message { role: "user".into(), content: text.into() };
    let params: BTreeMap<_, _> = [("max_tokens".to_owned(), json!(20)), ("temperature".to_owned(), json!(0))].into();
    Request { model: "m".into(), input: Input::Messages(vec![message]), params, n }
}

/// The bound of one request for one completion of a text of one byte.
fn worst_of_one() -> Usd {
    Usd::from_pico(1_000_000).times(20 + 64 + 16 + 4 + 1)
}

fn endpoint_of(answered: &Answered) -> Option<&str> {
    answered.stored.purchases.last()?.response.endpoint.as_deref()
}

#[tokio::test(start_paused = true)]
async fn the_first_that_does_not_fail_answers() {
    use FailureKind::{Authentication, BadRequest, Connection, ContextTooLong, QuotaExceeded, Server, UnknownModel};
    let cases = [Authentication, QuotaExceeded, UnknownModel, Server, Connection, BadRequest, ContextTooLong];
    let cases = cases.into_iter().map(Does::Fail).chain([Does::Limited(30), Does::TimeOut]);
    for does in cases {
        let stage = Stage::new(vec![always(does.clone()), always(does.clone()), always(Does::Answer)]);
        let begin = Instant::now();
        let answered = stage.ask("x", 1).await.unwrap();
        assert_eq!((endpoint_of(&answered), answered.requests), (Some("c"), 3), "{does:?}");
        let most = if matches!(does, Does::TimeOut) { 2_400 } else { 400 };
        assert!(begin.elapsed() < Duration::from_millis(most), "{does:?}: {:?}", begin.elapsed());
        let bill = Usd::from_pico(12_000_000);
        let lost = if matches!(does, Does::TimeOut) { worst_of_one().times(2) } else { Usd::ZERO };
        assert_eq!(stage.purse.spent(), bill + lost, "{does:?}");
        // Who failed is left alone: for a while, or, where it cannot be used at all, for good.
        stage.ask("y", 1).await.unwrap();
        let own = matches!(does, Does::Fail(BadRequest | ContextTooLong));
        assert_eq!(stage.calls(), if own { [2, 2, 2] } else { [1, 1, 2] }, "{does:?}");
        tokio::time::sleep(Duration::from_secs(100)).await;
        stage.ask("z", 1).await.unwrap();
        let fatal = matches!(does, Does::Fail(kind) if kind.fatal());
        let again = if own { 3 } else { 2 - usize::from(fatal) };
        assert_eq!(stage.calls(), [again, again, 3], "{does:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_all_fail_the_round_begins_again_and_ends() {
    let stage = Stage::with(
        vec![always(Does::Fail(FailureKind::Server)), always(Does::Limited(2))],
        true,
        |endpoint| endpoint.max_retries = 2,
        |_| {},
    );
    let failure = stage.ask("x", 1).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::RateLimit);
    assert!(failure.message.contains("endpoint `b`") && failure.message.contains("given up after 14"), "{failure}");
    assert_eq!(stage.calls(), [3, 11], "a rate limit is waited for longer");

    let all_out = Stage::new(vec![
        always(Does::Fail(FailureKind::Authentication)),
        always(Does::Fail(FailureKind::UnknownModel)),
    ]);
    let failure = all_out.ask("x", 1).await.unwrap_err();
    assert!(failure.kind.fatal(), "{failure}");
    assert!(all_out.ask("y", 1).await.unwrap_err().kind.fatal());
    assert_eq!(all_out.calls(), [1, 1], "nothing is sent where all are out");

    let half = Stage::with(
        vec![always(Does::Fail(FailureKind::Authentication)), always(Does::Fail(FailureKind::Server))],
        true,
        |endpoint| endpoint.max_retries = 1,
        |_| {},
    );
    assert_eq!(half.ask("x", 1).await.unwrap_err().kind, FailureKind::Server, "another run may overcome that");
}

#[tokio::test(start_paused = true)]
async fn several_endpoints_share_the_load() {
    let balance = |model: &mut Model| model.routing = Routing::Balance;
    let plots = vec![always(Does::Answer), always(Does::Answer), always(Does::Answer)];
    let stage = Arc::new(Stage::with(plots, true, |_| {}, balance));
    let tasks: Vec<_> = (0..30)
        .map(|number| {
            let stage = stage.clone();
            tokio::spawn(async move { stage.ask(&number.to_string(), 1).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(stage.calls(), [10, 10, 10]);
    for number in 0..6 {
        stage.ask(&format!("one by one {number}"), 1).await.unwrap();
    }
    assert_eq!(stage.calls(), [12, 12, 12], "also where one request comes after the other");
    let plots = vec![always(Does::Fail(FailureKind::Server)), always(Does::Answer)];
    let stage = Stage::with(plots, true, |_| {}, balance);
    for number in 0..10 {
        assert_eq!(endpoint_of(&stage.ask(&number.to_string(), 1).await.unwrap()), Some("b"));
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_request_gives_one_completion_n_are_n_requests_side_by_side() {
    let stage = Stage::with(vec![always(Does::Answer)], false, |_| {}, |_| {});
    let service = stage.service();
    assert_eq!(service.worst(&request("x", 3), 0, false), worst_of_one().times(3), "a prompt each");
    assert_eq!(service.worst(&request("x", 3), 2, false), worst_of_one());
    let begin = Instant::now();
    let answered = stage.ask("x", 3).await.unwrap();
    assert_eq!(begin.elapsed().as_millis(), 100, "not one after the other");
    assert_eq!((answered.requests, answered.stored.purchases.len(), answered.stored.len()), (3, 3, 3));
    assert_eq!(stage.purse.spent(), Usd::from_pico(36_000_000), "three prompts and three outputs");
    assert_eq!(*stage.stubs[0].calls.lock().unwrap(), [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(stage.purse.held(), Usd::ZERO);
    // What failed is tried again by itself; what is there is kept.
    let stage = Stage::with(
        vec![Box::new(|number| if number == 2 { Does::TimeOut } else { Does::Answer })],
        false,
        |endpoint| endpoint.max_timeout_retries = 0,
        |_| {},
    );
    assert_eq!(stage.ask("x", 3).await.unwrap_err().kind, FailureKind::Timeout);
    assert_eq!(stage.purse.spent(), Usd::from_pico(24_000_000) + worst_of_one());
    let answered = stage.ask("x", 3).await.unwrap();
    assert_eq!((answered.requests, stage.purse.held()), (1, Usd::ZERO));
}

#[tokio::test(start_paused = true)]
async fn samples_stand_in_the_order_of_asking_whichever_came_first() {
    // The first is answered late, the second fails once: those behind them are answered long before.
    let plot = |number| match number {
        1 => Does::Late(5),
        2 => Does::Fail(FailureKind::Server),
        _ => Does::Answer,
    };
    let stage = Stage::with(vec![Box::new(plot)], false, |_| {}, |_| {});
    let answered = stage.ask("x", 4).await.unwrap();
    let texts: Vec<&str> = answered.stored.samples().map(|sample| sample.text.as_str()).collect();
    assert_eq!(texts, ["0", "1", "2", "3"]);
    assert_eq!(stage.purse.held(), Usd::ZERO);
}

#[tokio::test(start_paused = true)]
async fn fewer_choices_than_asked_are_asked_for_again_and_marked() {
    let stage = Stage::new(vec![always(Does::Short)]);
    let answered = stage.ask("x", 3).await.unwrap();
    let asked: Vec<Option<u32>> = answered.stored.purchases.iter().map(|purchase| purchase.response.asked).collect();
    assert_eq!((answered.requests, asked), (3, vec![Some(3), Some(2), None]));
    assert_eq!(stage.purse.spent(), Usd::from_pico(36_000_000));
}

#[tokio::test(start_paused = true)]
async fn time_is_up_at_the_deadline() {
    let with = |does: Does| {
        Stage::with(vec![always(does)], true, |endpoint| endpoint.deadline = Some(Duration::from_secs(5)), |_| {})
    };
    let begin = Instant::now();
    let stage = with(Does::Limited(300));
    let failure = stage.ask("x", 1).await.unwrap_err();
    assert!(failure.message.contains("deadline"), "{failure}");
    assert!(begin.elapsed() < Duration::from_secs(1), "a wish beyond the deadline is not waited for");
    assert_eq!(stage.purse.spent(), Usd::ZERO);

    let (begin, stage) = (Instant::now(), with(Does::Hang));
    let failure = stage.ask("x", 1).await.unwrap_err();
    assert_eq!((failure.kind, begin.elapsed().as_secs()), (FailureKind::Timeout, 5));
    assert_eq!(stage.purse.spent(), worst_of_one(), "it may be billed");
    assert_eq!(stage.calls(), [1]);

    let (begin, stage) = (Instant::now(), with(Does::Fail(FailureKind::Server)));
    stage.ask("x", 1).await.unwrap_err();
    assert!(begin.elapsed() <= Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(stage.calls()[0] >= 3, "{:?}", stage.calls());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_answered_in_time_is_tried_again_so_often_and_counted_each_time() {
    for retries in [0, 1, 3] {
        let stage =
            Stage::with(vec![always(Does::TimeOut)], true, |endpoint| endpoint.max_timeout_retries = retries, |_| {});
        assert_eq!(stage.ask("x", 1).await.unwrap_err().kind, FailureKind::Timeout);
        assert_eq!(stage.calls(), [retries as usize + 1]);
        assert_eq!(stage.purse.spent(), worst_of_one().times(u64::from(retries) + 1));
    }
}

/// So many requests side by side.
async fn crowd(stage: &Arc<Stage>, texts: std::ops::Range<u32>) -> Vec<Result<Answered, Failure>> {
    let ask = |number: u32| {
        let stage = stage.clone();
        tokio::spawn(async move { stage.ask(&format!("{number:03}"), 1).await })
    };
    let tasks: Vec<_> = texts.map(ask).collect();
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap());
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_dead_gateway_costs_a_handful_of_worst_cases() {
    for kind in [FailureKind::Server, FailureKind::MalformedReply, FailureKind::Connection] {
        let plot = move |number| if number > 100 { Does::Lose(kind) } else { Does::Answer };
        let stage = Arc::new(Stage::new(vec![Box::new(plot)]));
        assert!(crowd(&stage, 0..100).await.iter().all(Result::is_ok));
        let begin = Instant::now();
        let all = crowd(&stage, 100..900).await;
        // Those in flight when it died, and those that tried whether it was back.
        let lost = stage.calls()[0] - 100;
        assert!((8..=45).contains(&lost), "{kind}: {lost} requests were lost");
        assert!((30..40).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
        assert!(all.iter().all(|one| one.as_ref().is_err_and(|failure| failure.kind == kind)));
        let said = all.last().unwrap().as_ref().unwrap_err();
        assert!(said.message.contains("nothing more is sent"), "{said}");
        // What comes now fails at once, but for one a minute.
        assert!(stage.ask("later", 1).await.is_err());
        assert_eq!(stage.calls()[0], 100 + lost);
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert!(crowd(&stage, 900..950).await.iter().all(Result::is_err));
        assert_eq!(stage.calls()[0], 101 + lost);
    }
}

/// An endpoint that bills a hundred times the bound: with the first bill it is known what those under way may cost, and
/// nothing more goes out beside them.
#[tokio::test(start_paused = true)]
async fn what_is_under_way_counts_at_what_bills_have_taught() {
    let mut stage = Stage::new(vec![Box::new(|number| Does::Dear(if number == 1 { 0 } else { 5 }))]);
    stage.purse = Purse::new(Some("0.05".parse().unwrap()), false, Usd::ZERO);
    let stage = Arc::new(stage);
    let all = crowd(&stage, 0..40).await;
    let first = Window::new(40).bears();
    assert_eq!((stage.calls()[0], all.iter().filter(|one| one.is_ok()).count()), (first, first));
    // Where there is room for what is under way, it goes on.
    let mut stage = Stage::new(vec![Box::new(|number| Does::Dear(if number == 1 { 0 } else { 5 }))]);
    stage.purse = Purse::new(Some("0.6".parse().unwrap()), false, Usd::ZERO);
    let stage = Arc::new(stage);
    assert!(crowd(&stage, 0..40).await.iter().all(Result::is_ok));
}

/// What one group finds out of a model at an endpoint all others know.
#[tokio::test(start_paused = true)]
async fn groups_of_one_model_learn_together() {
    let stage = Arc::new(Stage::new(vec![always(Does::Lose(FailureKind::Server))]));
    let groups: Vec<_> = (0..10).map(|_| stage.group()).collect();
    let asked = |number: usize| {
        let (stage, group) = (stage.clone(), groups[number % 10].clone());
        async move { stage.ask_of(&group, Wish::default(), &number.to_string(), 1).await }
    };
    let all = futures_util::future::join_all((0..200).map(asked)).await;
    assert!(all.iter().all(|one| one.as_ref().is_err_and(|failure| failure.kind == FailureKind::Server)));
    assert!(stage.calls()[0] < 30, "{:?}: eight for each of the groups would be 80", stage.calls());

    let stage = Stage::new(vec![always(Does::Dear(0))]);
    let (one, other) = (stage.group(), stage.group());
    let bound = || other.bound_at(&other.price, &request("x", 1), 1, false);
    let (before, sent) = (bound(), other.send(bound()));
    stage.ask_of(&one, Wish::default(), "x", 1).await.unwrap();
    assert!(other.overbilled() && bound() > before.times(50));
    assert!(one.beyond() > Usd::ZERO, "what the other one sent is under way beside it");
    drop(sent);
    assert_eq!(one.beyond(), Usd::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_waited_for() {
    // The tries after 1, 3 and 7 s fail still.
    let plot = |number| if number <= 13 { Does::Lose(FailureKind::Server) } else { Does::Answer };
    let stage = Arc::new(Stage::new(vec![Box::new(plot)]));
    let begin = Instant::now();
    let all = crowd(&stage, 0..200).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(stage.calls(), [213], "nothing else was lost");
    assert!((15..25).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn failures_that_bill_nothing_hold_nobody_back() {
    let plot = |number| if number <= 40 { Does::Fail(FailureKind::Server) } else { Does::Answer };
    let stage = Arc::new(Stage::new(vec![Box::new(plot)]));
    let begin = Instant::now();
    assert!(crowd(&stage, 0..40).await.iter().all(Result::is_ok));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_is_left_for_one_that_lives() {
    let plots = vec![always(Does::Lose(FailureKind::Server)), always(Does::Answer)];
    let stage = Arc::new(Stage::new(plots));
    let begin = Instant::now();
    assert!(crowd(&stage, 0..200).await.iter().all(Result::is_ok));
    assert!(stage.calls()[0] <= 20 && begin.elapsed() < Duration::from_secs(10), "{:?}", stage.calls());
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_wait_is_honoured_for_minutes_and_no_longer() {
    let first = |wish| -> Plot { Box::new(move |number| if number == 1 { Does::Limited(wish) } else { Does::Answer }) };
    for (wish, waited) in [(200, 200), (900, 300), (3600, 300)] {
        let (begin, stage) = (Instant::now(), Stage::new(vec![first(wish)]));
        stage.ask("x", 1).await.unwrap();
        assert_eq!(begin.elapsed().as_secs(), waited, "{wish}");
    }
    let (begin, stage) = (Instant::now(), Stage::new(vec![first(25_920)]));
    let failure = stage.ask("x", 1).await.unwrap_err();
    assert!(failure.kind == FailureKind::RateLimit && failure.message.contains("it asks to wait 7 h"), "{failure}");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_endpoint_can_be_asked() {
    let stage = Stage::new(vec![always(Does::Answer), always(Does::Answer)]);
    let at = |endpoint| Wish { endpoint: Some(endpoint), ..Wish::default() };
    assert_eq!(stage.service().endpoints().collect::<Vec<_>>(), ["a", "b"]);
    stage.ask_as(at(1), "x", 1).await.unwrap();
    let answered = stage.ask_as(at(0), "x", 2).await.unwrap();
    let who: Vec<_> = answered.stored.purchases.iter().map(|p| p.response.endpoint.as_deref().unwrap()).collect();
    assert_eq!((who, answered.requests), (vec!["b", "a"], 1));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_gives_up_where_the_run_stops() {
    let plot = |number| if number == 1 { Does::Hang } else { Does::Answer };
    let one = |endpoint: &mut Endpoint| endpoint.rates.max_concurrency = Some(1);
    let stage = Arc::new(Stage::with(vec![Box::new(plot)], true, one, |_| {}));
    let ask = |text: &'static str| {
        let stage = stage.clone();
        tokio::spawn(async move { stage.ask(text, 1).await })
    };
    let hangs = ask("x");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let waits = ask("y");
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.runner.stop();
    assert_eq!(waits.await.unwrap().unwrap_err().kind, FailureKind::Interrupted);
    hangs.abort();
    assert_eq!(stage.calls(), [1]);
}

#[test]
fn a_snapshot_may_be_its_family() {
    let open = |more: &str| {
        let text = format!(
            "[endpoints.e]\nprovider = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\n{more}\n[models.m]\nprice = {{ input = 1, output = 1 }}"
        );
        let source = crate::diagnostic::Source::new("farthing.toml", text);
        let endpoints = Endpoints::read(&source, std::path::Path::new(".")).unwrap();
        let runner = Runner::open(MemoryStore::new(), &endpoints, &["m".into()], 4, true, true).unwrap();
        runner.service("m").unwrap()
    };
    let named = |name: &str| Request { model: name.into(), ..request("x", 1) };
    let (exact, major) = (open(""), open("equivalence = \"major\""));
    let print = exact.fingerprint(&named("gpt-4o"));
    assert_ne!(print, exact.fingerprint(&named("gpt-4o-2024-08-06")));
    assert_eq!(print, major.fingerprint(&named("gpt-4o-2024-08-06")));
    assert_eq!(major.fingerprint(&named("gpt-4o-2024-05-13")), major.fingerprint(&named("gpt-4o-2024-08-06")));
    assert_ne!(print, major.fingerprint(&named("gpt-4o-mini")));
    assert_eq!(print, fingerprint("http", &named("gpt-4o")));
    // No new fingerprint: a timeout, limits, a key's name, how often it is tried.
    let other = open("timeout_seconds = 3\nmax_retries = 9\nrequests_per_minute = 7\napi_key_env = \"ANOTHER\"");
    assert_eq!(print, other.fingerprint(&named("gpt-4o")));
}

#[test]
fn endpoints_of_one_model_are_one_source() {
    let text = "[endpoints.a]\nprovider = \"mock\"\n[endpoints.b]\nprovider = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\n\
                [models.mock-small]\nendpoints = [\"a\", \"b\"]\n[endpoints.c]\nprovider = \"openai\"\nbase_url = \"http://127.0.0.1:2/v1\"\n\
                [models.other]\nendpoints = [\"b\", \"c\"]\nprice = { input = 1, output = 1 }";
    let source = crate::diagnostic::Source::new("farthing.toml", text.to_owned());
    let endpoints = Endpoints::read(&source, std::path::Path::new(".")).unwrap();
    let open = |model: &str| Runner::open(MemoryStore::new(), &endpoints, &[model.to_owned()], 4, true, true);
    let error = open("mock-small").err().unwrap();
    assert_eq!(error.fault(), crate::diagnostic::Fault::Usage);
    assert!(error.message().contains("`a` and `b`"), "{error}");
    assert!(open("other").is_ok());
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_traced_and_oddities_said_once() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("farthing=debug")
        .with_ansi(false)
        .with_writer({
            let log = log.clone();
            move || log.clone()
        })
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let plot = |number| match number {
        1 => Does::Fail(FailureKind::Server),
        2 | 3 => Does::As("another"),
        _ => Does::As("m-2024-08-06"),
    };
    let stage = Stage::new(vec![Box::new(plot)]);
    for text in ["x", "y", "z"] {
        stage.ask(text, 2).await.unwrap();
    }
    drop(guard);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for field in [
        "gen_ai.operation.name=\"chat\"",
        "gen_ai.provider.name=\"openai\"",
        "gen_ai.request.model=m",
        "gen_ai.response.model=\"another\"",
        "gen_ai.usage.input_tokens=10",
        "gen_ai.usage.output_tokens=4",
        "gen_ai.response.finish_reasons=\"stop,stop\"",
        "error.type=\"server\"",
        "gen_ai.request.choice.count=2",
        "server.address=127.0.0.1",
        "server.port=1",
        "otel.name=chat m",
    ] {
        assert!(log.contains(field), "no {field} in {log}");
    }
    assert_eq!(log.matches("temperature 0").count(), 1, "{log}");
    assert_eq!(log.matches("`another` answered").count(), 1, "{log}");
    assert!(!log.contains("`m-2024-08-06` answered"), "{log}");
}

/// As if another process had bought it: the runner does not hear of it.
async fn bought_elsewhere(stage: &Stage, text: &str) {
    let print = stage.service().fingerprint(&request(text, 1));
    let record = crate::store::RequestRecord { model: "m".into(), source: "http".into(), body: "{}".into() };
    let response = Response {
        samples: vec![Sample::new("theirs", FinishReason::STOP, 2)],
        prompt_tokens: 10,
        ..Response::default()
    };
    stage.runner.store.record("other", &print, &record, response, Usd::from_pico(1), None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_look_did_not_find_is_not_looked_up_again_at_once() {
    let stage = Stage::new(vec![always(Does::Answer)]);
    let look = stage.runner.look();
    let wish = Wish { missed: Some(look), ..Wish::default() };
    // The store is not asked: else what stands there would be found. Nothing that was paid for is lost by it.
    bought_elsewhere(&stage, "x").await;
    let answered = stage.ask_as(wish, "x", 1).await.unwrap();
    assert_eq!((answered.requests, answered.stored.len(), stage.calls()), (1, 2, vec![1]));
    // Without a look, or with one of long ago, the store is asked.
    bought_elsewhere(&stage, "y").await;
    assert_eq!(stage.ask("y", 1).await.unwrap().requests, 0);
    bought_elsewhere(&stage, "z").await;
    tokio::time::sleep(LOOK_HOLDS + Duration::from_millis(1)).await;
    assert_eq!(stage.ask_as(wish, "z", 1).await.unwrap().requests, 0);
    assert_eq!(stage.calls(), [1]);
}

#[tokio::test(start_paused = true)]
async fn what_was_bought_since_a_look_is_looked_up_again() {
    let stage = Stage::new(vec![always(Does::Answer)]);
    let before = Wish { missed: Some(stage.runner.look()), ..Wish::default() };
    assert_eq!(stage.ask_as(before, "x", 1).await.unwrap().requests, 1);
    assert_eq!(stage.ask_as(before, "x", 1).await.unwrap().requests, 0, "it was bought after that look");
    let after = Wish { missed: Some(stage.runner.look()), ..Wish::default() };
    assert_eq!(stage.ask_as(before, "y", 1).await.unwrap().requests, 1, "what others bought says nothing of this one");
    // Two at once: the second waits for the first, and finds its sample.
    let (one, other) = tokio::join!(stage.ask_as(after, "w", 1), stage.ask_as(after, "w", 1));
    assert_eq!(one.unwrap().requests + other.unwrap().requests, 1);
    // Three wanted, one bought since the look: two are missing.
    assert_eq!(stage.ask_as(before, "x", 3).await.unwrap().stored.len(), 3);
    assert_eq!(stage.stubs[0].calls.lock().unwrap().last(), Some(&(1, 2)));
    assert_eq!(stage.calls(), [4]);
}
