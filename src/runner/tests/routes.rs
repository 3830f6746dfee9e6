//! Which endpoint answers, how often it is asked, and what failures cost.

use super::*;

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
    let Answered { outcome, requests } = stage.answered(&stage.service(), Wish::default(), "x", 1).await;
    let failure = outcome.unwrap_err();
    assert_eq!((failure.kind, requests), (FailureKind::RateLimit, 14), "requests of a failure are counted");
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
async fn crowd(stage: &Arc<Stage>, texts: std::ops::Range<u32>) -> Vec<Result<Bought, Failure>> {
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
        async move { stage.ask_of(&group, &number.to_string()).await }
    };
    let all = futures_util::future::join_all((0..200).map(asked)).await;
    assert!(all.iter().all(|one| one.as_ref().is_err_and(|failure| failure.kind == FailureKind::Server)));
    assert!(stage.calls()[0] < 30, "{:?}: eight for each of the groups would be 80", stage.calls());

    let stage = Stage::new(vec![always(Does::Dear(0))]);
    let (one, other) = (stage.group(), stage.group());
    let bound = || other.bound_at(&other.price, &request("x", 1), 1, false);
    let (before, sent) = (bound(), other.send(bound()));
    stage.ask_of(&one, "x").await.unwrap();
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

#[tokio::test(start_paused = true)]
async fn a_model_that_answered_is_not_unknown_for_one_request() {
    let missing = |number: u64| if number == 2 { Does::Fail(FailureKind::UnknownModel) } else { Does::Answer };
    let stage = Stage::new(vec![Box::new(missing), always(Does::Answer)]);
    assert_eq!(endpoint_of(&stage.ask("x", 1).await.unwrap()), Some("a"));
    assert_eq!(endpoint_of(&stage.ask("y", 1).await.unwrap()), Some("b"));
    assert_eq!(endpoint_of(&stage.ask("z", 1).await.unwrap()), Some("a"), "it is not out");
    let alone = Stage::new(vec![Box::new(missing)]);
    alone.ask("x", 1).await.unwrap();
    assert_eq!(alone.ask("y", 1).await.unwrap_err().kind, FailureKind::BadRequest);
    alone.ask("z", 1).await.unwrap();
    let never = Stage::new(vec![always(Does::Fail(FailureKind::UnknownModel))]);
    assert_eq!(never.ask("x", 1).await.unwrap_err().kind, FailureKind::UnknownModel);
}

/// A server that counts nonsense spends no budget: the bound is booked for it.
#[tokio::test]
async fn counts_that_cannot_be_are_booked_at_the_bound() {
    let stage = Stage::new(vec![always(Does::Answer)]);
    let service = stage.service();
    let ask = request("x", 2);
    // (input tokens, output tokens of each of two, thoughts among them), and what is booked for them.
    for (said, booked) in [
        ((10, 5, 0), Some((10, 10))),
        ((30_000, 10_000, 0), None),
        // Thoughts that were counted apart and that max_tokens did not hold back.
        ((10, 60_000, 110_000), None),
        ((10, 99_999_999, 0), Some((10, 40))),
        ((10, 45_000_000, 90_000_000), Some((10, 40))),
        ((90_000_000, 5, 0), Some((85, 10))),
        ((90_000_000, 99_999_999, 0), Some((85, 40))),
    ] {
        let (prompt_tokens, each, reasoning_tokens) = said;
        let samples = vec![Sample::new("a", FinishReason::STOP, each); 2];
        let mut response = Response { samples, prompt_tokens, reasoning_tokens, ..Response::default() };
        let bill = service.take_in(&service.price, &ask, 2, "a", &mut response);
        let (input, output) = booked.unwrap_or((prompt_tokens, each * 2));
        assert_eq!((response.prompt_tokens, response.completion_tokens()), (input, output), "{said:?}");
        assert_eq!(response.estimated, (input, output) != (prompt_tokens, each * 2), "{said:?}");
        assert_eq!(bill, Usd::from_pico(1_000_000).times(input + output), "{said:?}");
    }
    // An answer as long as its count was written, whatever was asked for.
    let samples = vec![Sample::new("a".repeat(90_000), FinishReason::STOP, 80_000)];
    let mut response = Response { samples, prompt_tokens: 10, ..Response::default() };
    service.take_in(&service.price, &request("x", 1), 1, "a", &mut response);
    assert_eq!((response.completion_tokens(), response.estimated), (80_000, false));
}

#[tokio::test]
async fn best_of_is_drawn_and_billed_however_it_is_written() {
    let stage = Stage::new(vec![always(Does::Answer)]);
    let mut ask = request("x", 2);
    for best_of in [json!(5), json!(5.0)] {
        ask.params.insert("best_of".into(), best_of);
        let worst = stage.service().bound(&ask, 0, false);
        assert_eq!(worst, Usd::from_pico(1_000_000).times(85 + 5 * 20));
    }
    // As is what was predicted in vain: read (twice its bytes, like all JSON) and written.
    let mut ask = request("x", 1);
    ask.params.insert("prediction".into(), json!("12345678"));
    assert_eq!(stage.service().bound(&ask, 0, false), Usd::from_pico(1_000_000).times(85 + 2 * 10 + 20 + 10));
}

#[tokio::test]
async fn what_no_endpoint_is_sent_makes_no_other_request() {
    let stage = Stage::new(vec![always(Does::Answer), always(Does::Answer)]);
    let cold = request("x", 1);
    let mut warm = cold.clone();
    warm.params.insert("temperature".into(), json!(1));
    let same = |drops: [&[&str]; 2]| {
        let mut endpoints = stage.endpoints.clone();
        for (endpoint, drops) in endpoints.list.iter_mut().zip(drops) {
            endpoint.drop_params = drops.iter().map(|name| (*name).to_owned()).collect();
        }
        let service = stage.runner.open_under(&endpoints, stage.service().model.clone(), None, true).unwrap();
        service.fingerprint(&cold) == service.fingerprint(&warm)
    };
    assert!(!same([&[], &[]]) && !same([&["temperature"], &[]]), "one of them is sent it");
    assert!(same([&["temperature"], &["temperature", "seed"]]));
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_not_sent() {
    let stage = Stage::new(vec![always(Does::Answer)]);
    let ask = |checked: bool, text: &str| {
        let known = stage.service().model.clone();
        let model = Model { context_window: Some(40), checked, ..known };
        let service = stage.runner.open_under(&stage.endpoints, model, None, true).unwrap();
        let mut request = request(text, 1);
        request.model = "gpt-4o".into();
        let print = service.fingerprint(&request);
        let stage = &stage;
        async move {
            let worst = service.worst(&request, 0, false);
            let Admission::Go(mut hold) = stage.purse.admit(worst, worst) else { panic!("not admitted") };
            let ask = Ask {
                service: &service,
                request: &request,
                fingerprint: &print,
                scope: "scope",
                wish: Wish::default(),
            };
            let Answered { outcome, requests } = stage.runner.answer(ask, &mut hold).await.unwrap();
            (outcome.map(|stored| stored.len()).map_err(|failure| (failure.kind, failure.message)), requests)
        }
    };
    let long = "one two three four five six seven eight ".repeat(6);
    let words = "not sent: the prompt has 49 tokens, and the context of `m` holds 40";
    assert_eq!(ask(true, &long).await, (Err((FailureKind::ContextTooLong, words.to_owned())), 0));
    // 40 words of 6 bytes each: by their bytes they might not fit, but they do.
    assert_eq!(ask(true, &" house".repeat(40)).await, (Ok(1), 1));
    assert_eq!(ask(false, &long).await, (Ok(1), 1), "the user says that it takes what is not known of it");
}
