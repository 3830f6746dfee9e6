//! What is bought, in which order it stands, when the store is asked, and what is left where nobody waits any more.

use super::*;

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
    let block = service.block(&request("x", 2), &answered.stored, 1);
    let texts: Vec<&str> = block.samples.iter().map(|sample| sample.text.as_str()).collect();
    assert_eq!((texts, block.prompt_tokens, block.full_cost), (vec!["1", "2"], 20, Usd::from_pico(24_000_000)));
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

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_any_more_counts_as_lost_once_it_was_sent() {
    for (several, n) in [(true, 1), (true, 3), (false, 3)] {
        let stage = Stage::with(vec![always(Does::Late(60))], several, |_| {}, |_| {});
        assert!(tokio::time::timeout(Duration::from_secs(5), stage.ask("x", n)).await.is_err());
        let worst = stage.service().worst(&request("x", n), 0, false);
        assert_eq!((stage.purse.spent(), stage.purse.held()), (worst, Usd::ZERO));
        assert_eq!(stage.runner.store.spent("scope").unwrap().total(), worst, "as in the ledger");
        assert!(stage.runner.flights.lock().unwrap().is_empty(), "its flight has ended");
        // Another one is not held up by it, and what does come in time is booked as billed.
        let bill = stage.purse.spent() + Usd::from_pico(1_000_000).times(10 + 2);
        stage.ask("y", 1).await.unwrap();
        assert_eq!((stage.purse.spent(), stage.purse.held()), (bill, Usd::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_waited_for_another_leaves_no_flight_behind() {
    let stage = Stage::new(vec![always(Does::Late(60))]);
    let both = async { tokio::join!(stage.ask("x", 1), stage.ask("x", 1)) };
    assert!(tokio::time::timeout(Duration::from_secs(5), both).await.is_err());
    assert!(stage.runner.flights.lock().unwrap().is_empty());
    assert_eq!((stage.purse.spent(), stage.calls()), (worst_of_one(), vec![1]));
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

#[tokio::test(start_paused = true)]
async fn attempts_are_traced_and_oddities_said_once() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("farthing=debug")
        .with_ansi(false)
        .with_writer(Arc::new(log.reopen().unwrap()))
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
    let log = std::fs::read_to_string(log.path()).unwrap();
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
