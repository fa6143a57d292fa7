//! A small HTTP client: connections that are kept, a page at a time on each, and what their latencies come to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Visit;

pub(crate) type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// What a request took, for many.
#[derive(Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// What this part of the requests stayed at or under (nearest rank).
    pub(crate) fn at(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() as f64 * part).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
    }
}

/// What one load came to.
pub(crate) struct Load {
    pub(crate) latencies: Latencies,
    took: Duration,
}

impl Load {
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.count() as f64 / self.took.as_secs_f64()
    }

    /// Each connection asks again when it is answered.
    pub(crate) async fn full(
        address: SocketAddr,
        visits: &[Visit],
        connections: usize,
        time: Duration,
    ) -> Fallible<Self> {
        Self::run(address, visits, connections, time, None).await
    }

    /// So many requests a second, whether they are answered or not: the `n`th is due after `n / rate` seconds, and its latency counts
    /// from then.
    pub(crate) async fn paced(
        address: SocketAddr,
        visits: &[Visit],
        connections: usize,
        time: Duration,
        rate: f64,
    ) -> Fallible<Self> {
        Self::run(address, visits, connections, time, Some(rate)).await
    }

    async fn run(
        address: SocketAddr,
        visits: &[Visit],
        connections: usize,
        time: Duration,
        rate: Option<f64>,
    ) -> Fallible<Self> {
        let next = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let one = async || -> Fallible<Vec<Duration>> {
            let mut connection = Connection::open(address).await?;
            let mut latencies = Vec::new();
            loop {
                // ORDER: Relaxed: a number for each request; one thread.
                let n = next.fetch_add(1, Ordering::Relaxed);
                let due = match rate {
                    Some(rate) => {
                        let due = start + Duration::from_secs_f64(n as f64 / rate);
                        tokio::time::sleep_until(due.into()).await;
                        due
                    }
                    None => Instant::now(),
                };
                if due.duration_since(start) >= time {
                    return Ok(latencies);
                }
                connection.get(&visits[n % visits.len()]).await?;
                latencies.push(due.elapsed());
            }
        };
        let all = futures::future::try_join_all((0..connections).map(|_| one())).await?;
        Ok(Self {
            latencies: Latencies(all.into_iter().flatten().collect()),
            took: start.elapsed(),
        })
    }
}

/// One page.
pub(crate) async fn fetch(address: SocketAddr, visit: &Visit) -> Fallible<Vec<u8>> {
    let mut connection = Connection::open(address).await?;
    Ok(connection.get(visit).await?.to_vec())
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Fallible<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Sends one request and gives the body of its answer, which must be a 200 with a length.
    async fn get(&mut self, (token, product): &Visit) -> Fallible<&[u8]> {
        let request = format!("GET /page/{token}/{product} HTTP/1.1\r\nhost: shop\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server hung up".into());
            }
            let Some(head) = find(&self.buffer, b"\r\n\r\n") else {
                continue;
            };
            let text = std::str::from_utf8(&self.buffer[..head])?;
            if !text.starts_with("HTTP/1.1 200 ") {
                return Err(format!("the server answered: {text}").into());
            }
            let length: usize = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .ok_or("an answer without a length")?
                .parse()?;
            let body = head + 4;
            while self.buffer.len() < body + length {
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Err("the server hung up".into());
                }
            }
            return Ok(&self.buffer[body..body + length]);
        }
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
