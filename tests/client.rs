//! The library's client: one request at a time, under a budget, over a store.

use farthing::Usd;
use farthing::backend::{Endpoint, Endpoints};
use farthing::client::{Client, Create, CreateError, LogForm, TextOrToolCall};
use farthing::provider::{FailureKind, FinishReason, Response, Sample};
use farthing::serve::mock::{Answers, Call, Latency, MockServer, Options, Reply};
use futures_util::StreamExt;

fn made_up() -> Client {
    Client::builder().endpoints(Endpoints::mock()).in_memory().concurrency(8).build().unwrap()
}

fn ask(number: u32) -> Create {
    Create::chat("mock-small").user(format!("What is {number} + {number}?")).max_tokens(30).temperature(1.0)
}

#[tokio::test]
async fn samples_are_bought_once() {
    let client = made_up();
    let three = client.create(&ask(4).n(3)).await.unwrap();
    assert!(!three.cached && three.cost > Usd::ZERO && three.cost == three.full_cost);
    let two = client.create(&ask(4).n(2)).await.unwrap();
    assert!(two.cached && two.cost == Usd::ZERO && two.full_cost > Usd::ZERO);
    assert_eq!(two.extract_text(), three.extract_text()[..2]);
    let five = client.create(&ask(4).n(5)).await.unwrap();
    assert!(five.cost > Usd::ZERO && !five.cached);
    assert_eq!(five.extract_text()[..3], three.extract_text());
    // A repeat is the next block; a fresh one comes behind all that is stored.
    let next = client.create(&ask(4).n(2).repeat(1)).await.unwrap();
    assert_eq!(next.extract_text(), five.extract_text()[2..4]);
    let fresh = client.create(&ask(4).n(1).fresh()).await.unwrap();
    assert!(fresh.cost > Usd::ZERO);
    assert_eq!(fresh.extract_text(), client.create(&ask(4).n(6)).await.unwrap().extract_text()[5..]);
    let usage = client.usage_summary();
    let sums = usage.models["mock-small"];
    assert_eq!((sums.calls, sums.cache_hits, sums.failed), (6, 3, 0));
    assert_eq!(usage.actual(), client.spent());
    assert!(usage.uncached() > usage.actual());
    client.reset_usage();
    assert_eq!(client.usage_summary().actual(), Usd::ZERO);
}

#[tokio::test]
async fn many_come_in_order() {
    let client = made_up();
    let answers: Vec<_> = client.create_many((0..60).map(ask)).collect().await;
    for (number, answer) in (0..).zip(answers) {
        let again = client.create(&ask(number)).await.unwrap();
        assert!(again.cached);
        assert_eq!(again.text(), answer.unwrap().text());
    }
}

#[tokio::test]
async fn the_budget_holds_and_what_is_stored_is_free() {
    let price = made_up().create(&ask(1)).await.unwrap().cost;
    let client = Client::builder().endpoints(Endpoints::mock()).in_memory().budget(price.times(20)).build().unwrap();
    let answers: Vec<_> = client.create_many((0..100).map(ask)).collect().await;
    let refused = |answer: &Result<_, CreateError>| matches!(answer, Err(CreateError::Failed(failure)) if failure.kind == FailureKind::Budget);
    assert!(answers.iter().filter(|answer| answer.is_ok()).count() > 3);
    assert!(answers.iter().any(refused));
    assert!(client.spent() <= price.times(20));
    let first = client.create(&ask(0)).await.unwrap();
    assert!(first.cached);
}

#[tokio::test]
async fn the_first_that_passes_is_taken_else_the_last_marked() {
    let client = made_up();
    let tries: Vec<Create> = [20, 30, 40].iter().map(|tokens| ask(9).max_tokens(*tokens)).collect();
    let second = client.create_any(&tries, |create, _| create.params["max_tokens"] != 20).await.unwrap();
    assert_eq!((second.tried, second.passed), (1, true));
    let none = client.create_any(&tries, |_, _| false).await.unwrap();
    assert_eq!((none.tried, none.passed), (2, false));
    assert!(none.full_cost > client.create(&tries[2]).await.unwrap().full_cost, "all tries are in the cost");
    assert!(client.create_any(&[], |_, _| true).await.is_err());
}

#[tokio::test]
async fn one_that_cannot_be_reached_is_left_for_the_next() {
    let server = MockServer::start(Options::default()).unwrap();
    let toml = format!(
        "[endpoints.dead]\nprovider = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\nmax_retries = 0\n\
         [endpoints.alive]\nprovider = \"openai\"\nbase_url = \"{}\"\n\
         [models.first]\nid = \"mock-small\"\nendpoint = \"dead\"\n\
         [models.second]\nid = \"mock-small\"\nendpoint = \"alive\"\n",
        server.url()
    );
    let source = farthing::diagnostic::Source::new("farthing.toml", toml);
    let endpoints = Endpoints::read(&source, ".".as_ref()).unwrap();
    let client = Client::builder().endpoints(endpoints).in_memory().build().unwrap();
    let of = |model: &str| Create { model: model.into(), ..ask(3) };
    let error = client.create(&of("first")).await.unwrap_err();
    assert!(matches!(error, CreateError::Failed(failure) if failure.kind == FailureKind::Connection));
    let done = client.create_any(&[of("first"), of("second")], |_, _| true).await.unwrap();
    assert_eq!((done.tried, done.model.as_str()), (1, "second"));
    assert!(matches!(done.extract_text_or_tool_call()[0], TextOrToolCall::Text(text) if !text.is_empty()));
    let first = client.usage_summary().models["first"];
    assert_eq!((first.failed, first.requests), (2, 2), "requests that failed were sent, too");
}

#[tokio::test]
async fn calls_are_logged_as_long_as_that_is_wanted() {
    let client = made_up();
    client.create(&ask(1)).await.unwrap();
    assert!(client.logged().is_empty());
    client.start_log(LogForm::Full);
    client.create(&ask(1)).await.unwrap();
    let full = client.logged();
    assert_eq!(full[0]["request"]["messages"][0]["content"], "What is 1 + 1?");
    assert_eq!((full[0]["cached"].as_bool(), full[0]["cost_usd"].as_str()), (Some(true), Some("0")));
    client.start_log(LogForm::Compact);
    for number in [1, 2, 1] {
        client.create(&ask(number)).await.unwrap();
    }
    let compact = client.logged();
    assert_eq!(compact.len(), 2);
    assert_eq!(compact[0]["calls"].as_array().unwrap().len(), 2);
    client.stop_log();
    assert!(client.logged().is_empty());
}

#[tokio::test]
async fn tokens_are_counted_before_sending() {
    let mut endpoints = Endpoints::standard();
    endpoints.list = vec![Endpoint::at("here", "http://127.0.0.1:1/v1")];
    let client = Client::builder().endpoints(endpoints).in_memory().build().unwrap();
    let hello = Create::chat("gpt-4").user("hello world").max_tokens(100);
    assert_eq!(client.count_tokens(&hello).unwrap(), Some(10));
    assert_eq!(client.fits_context(&hello).unwrap(), Some(true));
    assert_eq!(client.fits_context(&hello.clone().max_tokens(8192)).unwrap(), Some(false));
    let strange = Create::chat("some-model").user("hello");
    assert_eq!((client.count_tokens(&strange).unwrap(), client.fits_context(&strange).unwrap()), (None, None));
    assert!(client.cost_bound(&hello).unwrap() > Usd::ZERO);
}

#[tokio::test]
async fn of_those_that_wait_the_smallest_priority_goes_first() {
    let slow = Latency::Fixed(std::time::Duration::from_millis(50));
    let server = MockServer::start(Options { latency: slow, ..Options::default() }).unwrap();
    let toml = format!(
        "[endpoints.here]\nprovider = \"openai\"\nbase_url = \"{}\"\nmax_concurrency = 1\n\
         [models.mock-small]\nendpoint = \"here\"\nprice = {{ input = 1, output = 1 }}\n",
        server.url()
    );
    let source = farthing::diagnostic::Source::new("farthing.toml", toml);
    let endpoints = Endpoints::read(&source, ".".as_ref()).unwrap();
    let client = Client::builder().endpoints(endpoints).in_memory().build().unwrap();
    let mut answers = futures_util::stream::FuturesUnordered::new();
    // The first is sent at once; the others wait for it.
    for (number, priority) in [(0, 9), (1, 5), (2, 5), (3, -1), (4, 7)] {
        let (client, ask) = (client.clone(), ask(number).priority(priority));
        answers.push(async move {
            client.create(&ask).await.unwrap();
            number
        });
    }
    let mut order = Vec::new();
    while let Some(number) = answers.next().await {
        order.push(number);
    }
    assert_eq!(order, [0, 3, 1, 2, 4]);
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_counts_against_the_budget() {
    let late = Latency::Fixed(std::time::Duration::from_secs(2));
    let server = MockServer::start(Options { latency: late, ..Options::default() }).unwrap();
    let toml = format!(
        "[endpoints.here]\nprovider = \"openai\"\nbase_url = \"{}\"\n\
         [models.mock-small]\nendpoint = \"here\"\nprice = {{ input = 1, output = 1 }}\nmax_output_tokens = 30\n",
        server.url()
    );
    let source = farthing::diagnostic::Source::new("farthing.toml", toml);
    let endpoints = Endpoints::read(&source, ".".as_ref()).unwrap();
    let client =
        |budget: Usd| Client::builder().endpoints(endpoints.clone()).in_memory().budget(budget).build().unwrap();
    let worst = client(Usd::MAX).cost_bound(&ask(1)).unwrap();
    let client = client(worst.times(3));
    // Let go while the endpoint works on it.
    let sent = async {
        while server.ledger().requests == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let (first, other) = (ask(1), ask(2));
    tokio::select! {
        done = client.create(&first) => panic!("{done:?}"),
        () = sent => {}
    }
    assert_eq!(client.spent(), worst, "the endpoint has it");
    // Again and again, until the budget holds no more: those that were sent are as many as it holds.
    let refused = loop {
        let one = client.create(&other);
        match tokio::time::timeout(std::time::Duration::from_millis(300), one).await {
            Err(_) => assert!(client.spent() <= worst.times(3)),
            Ok(answer) => break answer.unwrap_err(),
        }
    };
    assert!(matches!(&refused, CreateError::Failed(failure) if failure.kind == FailureKind::Budget), "{refused}");
    assert_eq!((client.spent(), server.ledger().requests), (worst.times(3), 3));
}

#[tokio::test]
async fn what_is_said_to_fit_is_sent() {
    let answer = |_: &Call| {
        let samples = vec![Sample::new("yes", FinishReason::STOP, 1)];
        Reply::Answer(Response { samples, prompt_tokens: 100, ..Response::default() })
    };
    let answers = Answers::Custom(std::sync::Arc::new(answer));
    let server = MockServer::start(Options { models: Default::default(), answers, ..Options::default() }).unwrap();
    let mut endpoints = Endpoints::standard();
    // As if it were OpenAI's own address, whose bills its tokenizer tells beforehand.
    endpoints.list = vec![Endpoint { vendor: true, ..Endpoint::at("here", &server.url()) }];
    let client =
        |budget: Usd| Client::builder().endpoints(endpoints.clone()).in_memory().budget(budget).build().unwrap();
    let long = Create::chat("gpt-4o").user("international ".repeat(100)).max_tokens(5);
    let bound = client(Usd::MAX).cost_bound(&long).unwrap();
    // Twice the tokens are less than the bytes.
    let done = client(bound).create(&long).await.unwrap();
    assert!(done.cost > Usd::ZERO && done.cost <= bound);
    let refused = client(bound - Usd::from_pico(1)).create(&long).await.unwrap_err();
    assert!(refused.to_string().contains(&format!("${bound}")), "{refused}");
}

#[tokio::test]
async fn under_a_budget_each_request_must_bound_its_cost() {
    let server = MockServer::start(Options::default()).unwrap();
    let toml = format!(
        "[endpoints.here]\nprovider = \"openai\"\nbase_url = \"{}\"\n\
         [models.some]\nid = \"mock-small\"\nendpoint = \"here\"\nprice = {{ input = 1, output = 1 }}\n",
        server.url()
    );
    let source = farthing::diagnostic::Source::new("farthing.toml", toml);
    let endpoints = Endpoints::read(&source, ".".as_ref()).unwrap();
    let client = Client::builder().endpoints(endpoints).in_memory().budget("1".parse().unwrap()).build().unwrap();
    let open = Create::chat("some").user("What is 1 + 1?");
    let error = client.create(&open).await.unwrap_err().to_string();
    assert!(error.contains("nothing bounds") && server.ledger().requests == 0, "{error}");
    client.create(&open.max_tokens(40)).await.unwrap();
}

#[tokio::test]
async fn what_will_be_bought_is_bounded_for_repeats_and_fresh_samples_too() {
    let client = made_up();
    let one = client.cost_bound(&ask(5)).unwrap();
    client.create(&ask(5)).await.unwrap();
    assert_eq!(client.cost_bound(&ask(5)).unwrap(), Usd::ZERO);
    for more in [ask(5).fresh(), ask(5).repeat(2), ask(5).n(4), ask(5).repeat(6)] {
        let bound = client.cost_bound(&more).unwrap();
        assert!(bound >= one, "{more:?}");
        let before = client.spent();
        client.create(&more).await.unwrap();
        let paid = client.spent() - before;
        assert!(paid > Usd::ZERO && paid <= bound, "{more:?}: {paid} of {bound}");
    }
}

#[tokio::test]
async fn what_a_model_refuses_is_not_sent() {
    // Nobody listens there: a request that is sent fails in another way.
    let mut endpoints = Endpoints::standard();
    endpoints.list = vec![Endpoint::at("own", "http://127.0.0.1:9/v1")];
    let client = Client::builder().endpoints(endpoints).in_memory().build().unwrap();
    let error = client.create(&Create::chat("o3").user("Hi").temperature(0.3)).await.unwrap_err();
    let CreateError::Refused(error) = error else { panic!("{error:?}") };
    assert!(error.message().contains("the request asks `o3` for `temperature` = 0.3"), "{error:?}");
}
