//! Connections that can be made to break.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Whether a connection still lets bytes through.
#[derive(Clone, Debug)]
pub(super) struct Fuse(Arc<AtomicU8>);

/// The connection is whole.
const WHOLE: u8 = 0;
/// It is closed at the next byte.
const CLOSED: u8 = 1;
/// It is reset at the next byte.
const RESET: u8 = 2;

impl Fuse {
    /// Lets nothing more pass: the peer sees an orderly end.
    pub(super) fn close(&self) {
        self.0.store(CLOSED, Ordering::Release);
    }

    /// Lets nothing more pass: the peer gets a reset.
    pub(super) fn reset(&self) {
        self.0.store(RESET, Ordering::Release);
    }
}

impl Connected<IncomingStream<'_, Door>> for Fuse {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Fuse {
        stream.io().fuse.clone()
    }
}

/// The listening socket.
pub(super) struct Door(pub(super) TcpListener);

impl Listener for Door {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, address)) => {
                    // Without it small replies wait for the client's acknowledgement; failing to set it is no fault.
                    let _ = stream.set_nodelay(true);
                    return (Wire { stream, fuse: Fuse(Arc::new(AtomicU8::new(WHOLE))) }, address);
                }
                // Too many open files, say: the waiting connection is still there in a moment.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A connection with a fuse.
pub(super) struct Wire {
    stream: TcpStream,
    fuse: Fuse,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.fuse.0.load(Ordering::Acquire) {
            WHOLE => return Pin::new(&mut self.stream).poll_write(cx, bytes),
            // Closing without lingering sends a reset rather than an orderly end; failing to set it is no fault.
            RESET => drop(self.stream.set_zero_linger()),
            _ => {}
        }
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
