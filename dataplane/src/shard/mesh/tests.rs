use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use shoal_sys::doorbell::DoorbellWaiter;
use shoal_sys::ring::{Ring, RingConfig};

use super::*;
use crate::shard::driver::{self, Sources};

type Fab = Fabric<u64, u64>;
type End = Mesh<u64, u64>;
type Asking = Pin<Box<dyn Future<Output = Result<u64, Busy>>>>;

fn ring() -> Ring {
    Ring::new(RingConfig { entries: 8, buffers: 4, buffer_bytes: 1024 }).unwrap()
}

/// Both ends on this thread; nobody sleeps, so nobody is rung.
fn pair() -> (Rc<End>, Rc<End>) {
    let fabric = Arc::new(Fab::new(2));
    let bell = Doorbell::new(&ring()).unwrap();
    (Rc::new(Mesh::new(Arc::clone(&fabric), 0, bell.clone())), Rc::new(Mesh::new(fabric, 1, bell)))
}

fn asking(mesh: &Rc<End>, to: usize, question: u64) -> Asking {
    let mesh = Rc::clone(mesh);
    Box::pin(async move { mesh.ask(to, question).await })
}

fn poll(asking: &mut Asking) -> Poll<Result<u64, Busy>> {
    asking.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn reply(question: u64) -> u64 {
    question.wrapping_mul(3) + 1
}

/// Takes all questions that have come, and answers them.
fn answer_all(mesh: &End) {
    while !mesh.is_idle() {
        mesh.receive(|from, id, question| mesh.answer(from, id, reply(question)));
    }
}

/// Nothing is open, nobody waits, every place can be used again.
fn assert_at_rest(mesh: &End) {
    for peer in &mesh.peers {
        assert_eq!((peer.outstanding.get(), peer.waiting.get()), (0, 0));
    }
    let open = mesh.open.borrow();
    assert!(open.places.iter().all(|place| matches!(place, Place::Free)));
    let mut free = open.free.clone();
    free.sort_unstable();
    assert!(free.into_iter().eq(0..open.places.len() as u32), "a place is lost, or free twice");
}

#[test]
fn a_lane_holds_what_credits_allow_and_what_is_beyond_is_refused() {
    let (here, there) = pair();
    let credits = here.fabric.credits();
    let mut all: Vec<Asking> = (0..2 * credits as u64).map(|question| asking(&here, 1, question)).collect();
    assert!(all.iter_mut().all(|asking| poll(asking).is_pending()));
    assert_eq!(here.fabric.lane(0, 1).unwrap().len(), credits);
    assert_eq!((here.peers[1].outstanding.get(), here.peers[1].waiting.get()), (credits, credits));
    assert_eq!(poll(&mut asking(&here, 1, 0)), Poll::Ready(Err(Busy)));
    assert_eq!(poll(&mut asking(&here, 7, 0)), Poll::Ready(Err(Busy)), "there is no shard 7");

    let mut got = vec![None; all.len()];
    while got.contains(&None) {
        assert!(!there.is_idle(), "nobody can get on");
        // One batch at a time, so that waiting questions follow while others are still on the lane.
        there.receive(|from, id, question| there.answer(from, id, reply(question)));
        here.receive(|_, _, _| unreachable!("the other end asks nothing"));
        for (asking, got) in all.iter_mut().zip(&mut got).filter(|(_, got)| got.is_none()) {
            if let Poll::Ready(answer) = poll(asking) {
                *got = Some(answer.unwrap());
            }
        }
        assert!(here.peers[1].outstanding.get() <= credits);
        assert!(here.fabric.lane(0, 1).unwrap().len() <= credits);
    }
    assert!(got.into_iter().map(Option::unwrap).eq((0..2 * credits as u64).map(reply)), "an answer went astray");
    assert_at_rest(&here);
}

#[test]
fn questions_without_an_asker_give_their_credit_and_place_back() {
    let (here, there) = pair();
    let credits = here.fabric.credits();
    let mut all: Vec<Asking> = (0..2 * credits as u64).map(|question| asking(&here, 1, question)).collect();
    assert!(all.iter_mut().all(|asking| poll(asking).is_pending()));
    // Some that wait for a credit go away, and some whose answer has not come, has come, or has been taken.
    all.truncate(credits + 10);
    assert_eq!(here.peers[1].waiting.get(), 10);
    drop(all.split_off(credits / 2));
    answer_all(&there);
    assert_eq!(here.receive(|_, _, _| {}), BATCH);
    assert_eq!(poll(&mut all[0]), Poll::Ready(Ok(reply(0))));
    drop(all);
    while !here.is_idle() {
        here.receive(|_, _, _| {});
    }
    assert_at_rest(&here);
    assert!(here.open.borrow().places.len() <= credits);

    // All credits are there again, and no late answer reaches the wrong asker.
    for round in 0..3 {
        let mut all: Vec<Asking> = (0..credits as u64).map(|n| asking(&here, 1, n + 1_000_000 * round)).collect();
        assert!(all.iter_mut().all(|asking| poll(asking).is_pending()));
        all.truncate(credits - 100 * round as usize);
        answer_all(&there);
        while !here.is_idle() {
            here.receive(|_, _, _| {});
        }
        for (n, asking) in all.iter_mut().enumerate() {
            assert_eq!(poll(asking), Poll::Ready(Ok(reply(n as u64 + 1_000_000 * round))));
        }
        drop(all);
        assert_at_rest(&here);
    }
    assert!(here.open.borrow().places.len() <= credits, "places grow though they are free");
}

#[test]
fn one_shard_has_no_lanes_and_many_share_the_credits() {
    assert_eq!(Fab::new(1).lanes.len(), 0);
    assert_eq!([1, 2, 4, 8, 16].map(|shards| Fab::new(shards).credits()), [4096, 4096, 4096, 2048, 1024]);
    let alone: End = Mesh::new(Arc::new(Fab::new(1)), 0, Doorbell::new(&ring()).unwrap());
    assert!(alone.is_idle());
    assert_eq!(alone.receive(|_, _, _| {}), 0);
}

/// Tasks on each shard, and questions that each asks one after the other: 1e5 in all, with more tasks than credits.
const TASKS: u64 = 5_000;
const ROUNDS: u64 = 20;

struct Work(Rc<End>);

impl Sources for Work {
    fn receive(&self) -> usize {
        self.0.receive(|from, id, question| {
            let mesh = Rc::clone(&self.0);
            if question.is_multiple_of(3) {
                // As when the owner has to fetch first.
                glommio::spawn_local(async move { mesh.answer(from, id, reply(question)) }).detach();
            } else {
                mesh.answer(from, id, reply(question));
            }
        })
    }

    fn is_idle(&self) -> bool {
        self.0.is_idle()
    }
}

async fn shard(fabric: Arc<Fab>, shard: usize, finished: Arc<AtomicUsize>) -> u64 {
    let ring = ring();
    let bell = Doorbell::new(&ring).unwrap();
    let waiter = DoorbellWaiter::new(&ring).unwrap();
    let mesh = Rc::new(Mesh::new(fabric, shard, bell.clone()));
    let driver =
        glommio::spawn_local(driver::drive(ring, bell, waiter, Work(Rc::clone(&mesh)), Duration::from_micros(500)));
    let tasks = (0..TASKS).map(|task| {
        let mesh = Rc::clone(&mesh);
        glommio::spawn_local(async move {
            for round in 0..ROUNDS {
                let question = task * ROUNDS + round;
                assert_eq!(mesh.ask(1 - shard, question).await, Ok(reply(question)));
                assert!(mesh.peers[1 - shard].outstanding.get() <= mesh.fabric.credits());
                if round == ROUNDS / 2 && task.is_multiple_of(1000) {
                    // Long enough for the other side to run out of work and sleep.
                    glommio::timer::sleep(Duration::from_millis(5 + task / 1000)).await;
                }
            }
            ROUNDS
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut asked = 0;
    for task in tasks {
        asked += task.await;
    }
    assert_at_rest(&mesh);
    finished.fetch_add(1, Ordering::SeqCst);
    // The other shard may still ask.
    while finished.load(Ordering::SeqCst) < 2 {
        glommio::timer::sleep(Duration::from_millis(1)).await;
    }
    driver.cancel().await;
    asked
}

#[test]
fn two_shards_that_ask_each_other_never_stand_still() {
    let fabric = Arc::new(Fab::new(2));
    let finished = Arc::new(AtomicUsize::new(0));
    let (done, ended) = mpsc::channel();
    for at in 0..2 {
        let (fabric, finished, done) = (Arc::clone(&fabric), Arc::clone(&finished), done.clone());
        let thread = LocalExecutorBuilder::new(Placement::Unbound)
            .name(&format!("mesh-{at}"))
            .spawn(move || async move { done.send(shard(fabric, at, finished).await) })
            .unwrap();
        drop(thread);
    }
    for _ in 0..2 {
        assert_eq!(ended.recv_timeout(Duration::from_secs(60)), Ok(TASKS * ROUNDS), "the shards wait for each other");
    }
    assert!(fabric.lanes.iter().all(ArrayQueue::is_empty));
}
