//! Every metric, declared once: name, type, unit, labels and help, and which counter or gauge fills it.

/// What a value counts, and how the kept integer becomes the exported number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Kept in microseconds, exported in seconds.
    Seconds,
    /// Kept in parts per thousand, exported as a fraction of 1.
    Ratio,
}

impl Unit {
    /// The exported value of a kept one.
    pub fn export(self, kept: u64) -> f64 {
        match self {
            Unit::Count | Unit::Bytes => kept as f64,
            Unit::Seconds => kept as f64 / 1e6,
            Unit::Ratio => kept as f64 / 1e3,
        }
    }
}

/// Prometheus type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

/// One declaration.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Full name, with unit and `_total` where Prometheus wants them.
    pub name: &'static str,
    /// Prometheus type.
    pub kind: Type,
    /// Unit of the kept integer.
    pub unit: Unit,
    /// Label names, in the order in which values are given. A first `shard` is filled in on export; without it the
    /// shards are added up.
    pub labels: &'static [&'static str],
    /// Help text.
    pub help: &'static str,
}

impl Metric {
    /// Whether each shard is exported by itself.
    pub fn per_shard(&self) -> bool {
        self.labels.first() == Some(&"shard")
    }
}

macro_rules! families {
    ($($id:ident: $kind:ident $unit:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        /// A metric of the table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Family {
            $(#[doc = $help] $id,)*
        }

        impl Family {
            /// All, in the order of the table.
            pub const ALL: &[Family] = &[$(Family::$id),*];

            /// Its declaration.
            pub fn metric(self) -> &'static Metric {
                match self {
                    $(Family::$id => &Metric {
                        name: $name,
                        kind: Type::$kind,
                        unit: Unit::$unit,
                        labels: &[$($label),*],
                        help: $help,
                    },)*
                }
            }
        }
    };
}

families! {
    Requests: Counter Count "shoal_http_requests_total" ["class", "status", "cache"]
        "Answered requests by status and by where the body came from.";
    Refusals: Counter Count "shoal_http_refusals_total" ["reason"]
        "Requests and connections refused, by reason.";
    BodyBytes: Counter Bytes "shoal_http_body_bytes_total" []
        "Bytes of bodies handed to the kernel for viewers.";
    WireBytes: Counter Bytes "shoal_http_wire_bytes_total" []
        "Bytes of heads, bodies and framing handed to the kernel for viewers.";
    RequestSeconds: Histogram Seconds "shoal_http_request_seconds" ["cache"]
        "Time from a request's head to the last byte handed to the kernel.";
    FirstByteSeconds: Histogram Seconds "shoal_http_first_byte_seconds" ["cache"]
        "Time from a request's head to the first byte handed to the kernel.";
    Connections: Gauge Count "shoal_http_connections" ["shard"]
        "Open client connections.";
    ConnectionsAccepted: Counter Count "shoal_http_connections_accepted_total" ["shard"]
        "Client connections accepted.";
    ConnectionsClosed: Counter Count "shoal_http_connections_closed_total" ["reason"]
        "Client connections closed, by reason.";
    ConnectionsRefused: Counter Count "shoal_http_connections_refused_total" ["limit"]
        "Client connections closed right after accept, by the limit that was reached.";
    PacedResponses: Counter Count "shoal_http_paced_responses_total" []
        "Responses sent at their channel's limits.response_bytes_per_second.";
    LimitWait: Counter Seconds "shoal_http_limit_wait_seconds_total" []
        "Time that responses waited for their turn under their channel's limits.bytes_per_second.";
    TlsHandshakes: Counter Count "shoal_tls_handshakes_total" ["version", "kind"]
        "TLS handshakes of viewers completed, by version and by whether a session was resumed.";
    TlsFailures: Counter Count "shoal_tls_handshake_failures_total" ["reason"]
        "TLS handshakes of viewers that failed, by reason.";
    TlsReloads: Counter Count "shoal_tls_certificate_reloads_total" ["result"]
        "Certificates read again because their files had changed.";
    TlsExpiry: Gauge Seconds "shoal_tls_certificate_expiry_time_seconds" []
        "Unix time at which the first of the certificates being served expires; 0 without any.";
    CacheBytes: Gauge Bytes "shoal_cache_bytes" ["shard"]
        "Bytes of objects held in the RAM tier.";
    CacheObjects: Gauge Count "shoal_cache_objects" ["shard"]
        "Objects known to the RAM tier.";
    CacheBlocks: Gauge Count "shoal_cache_blocks" ["shard"]
        "Blocks held in the RAM tier.";
    CacheEvictions: Counter Count "shoal_cache_evictions_total" ["what"]
        "Blocks and objects evicted to make room.";
    CachePurged: Counter Count "shoal_cache_purged_objects_total" []
        "Objects retired by a purge.";
    FrontBytes: Gauge Bytes "shoal_cache_front_bytes" ["shard"]
        "Bytes of other shards' blocks pinned by the front index.";
    FrontLookups: Counter Count "shoal_cache_front_lookups_total" ["result"]
        "Lookups in the front index.";
    DiskBytes: Counter Bytes "shoal_disk_bytes_total" ["op"]
        "Bytes read from and written to the devices of the disk tier.";
    DiskLookups: Counter Count "shoal_disk_lookups_total" ["result"]
        "Reads of the disk tier, by what came of them; all but hits are fetched from the origin.";
    DiskErrors: Counter Count "shoal_disk_errors_total" ["op"]
        "Failed operations of the disk tier; a device that goes on failing is left out.";
    DiskWriteDrops: Counter Count "shoal_disk_write_drops_total" []
        "Blocks not written to disk because too many waited, or their device failed.";
    DiskEntries: Gauge Count "shoal_disk_entries" ["shard"]
        "Blocks in the index of the disk tier.";
    DiskQueued: Gauge Bytes "shoal_disk_queued_bytes" ["shard"]
        "Bytes of blocks that wait to be written to disk.";
    DiskDevices: Gauge Count "shoal_disk_devices" ["shard", "state"]
        "Devices of the disk tier, by whether they are in use.";
    DiskRecovery: Gauge Seconds "shoal_disk_recovery_seconds" ["shard"]
        "Time that the last start took to find what is on disk.";
    ArenaUsed: Gauge Bytes "shoal_arena_used_bytes" ["shard"]
        "Bytes of the arena in use, blocks in flight to the kernel included.";
    ArenaCapacity: Gauge Bytes "shoal_arena_capacity_bytes" ["shard"]
        "Bytes of the arena.";
    ArenaPinned: Gauge Bytes "shoal_arena_pinned_bytes" ["shard"]
        "Bytes of the arena that were evicted or purged, and are still being sent to viewers.";
    ArenaFailures: Counter Count "shoal_arena_allocation_failures_total" []
        "Blocks asked for when nothing could be evicted.";
    Flights: Gauge Count "shoal_flights" ["shard"]
        "Fetches under way.";
    FlightsStarted: Counter Count "shoal_flights_started_total" []
        "Fetches started.";
    FlightWaiters: Counter Count "shoal_flight_coalesced_waiters_total" []
        "Requests that joined a fetch already under way.";
    UpstreamHedges: Counter Count "shoal_upstream_hedges_total" []
        "Questions asked of a second origin because the first was slower than usual.";
    UpstreamAttempts: Counter Count "shoal_upstream_attempts_total" ["channel", "origin"]
        "Requests sent, or tried to send, to an origin.";
    UpstreamErrors: Counter Count "shoal_upstream_errors_total" ["channel", "origin", "kind"]
        "Failed attempts, by what failed.";
    UpstreamBytes: Counter Bytes "shoal_upstream_bytes_total" ["channel", "origin"]
        "Bytes received from an origin, heads included.";
    UdpDatagrams: Counter Count "shoal_udp_datagrams_total" ["direction"]
        "Datagrams received and sent.";
    UdpBytes: Counter Bytes "shoal_udp_bytes_total" ["direction"]
        "Bytes of their payloads.";
    UdpTrains: Counter Count "shoal_udp_trains_total" ["direction"]
        "Messages in which they were passed to and from the kernel, which joins datagrams of one flow.";
    UdpSteered: Counter Count "shoal_udp_steered_total" ["to"]
        "Messages for which the steering program was asked: to the owner's socket, or left to the kernel.";
    UdpStrays: Counter Count "shoal_udp_strays_total" []
        "Messages that came to a shard that does not own their flow, though flows are steered: before they were, at the start.";
    UdpDrops: Counter Count "shoal_udp_drops_total" ["reason"]
        "Datagrams dropped, and messages of TURN connections, by reason.";
    UdpQueue: Gauge Bytes "shoal_udp_receive_queue_bytes" ["shard"]
        "Memory of datagrams that wait in the shard's sockets.";
    UdpQueueMax: Gauge Bytes "shoal_udp_receive_queue_max_bytes" ["shard"]
        "Bound of the fullest socket's queue, as the kernel has granted it.";
    UdpQueueDrops: Counter Count "shoal_udp_receive_queue_drops_total" ["shard"]
        "Datagrams that the kernel dropped because a socket's queue was full.";
    StunAnswers: Counter Count "shoal_stun_answers_total" ["dialect", "result"]
        "Binding requests answered, by dialect (RFC 8489 or classic, RFC 3489).";
    TurnAllocations: Gauge Count "shoal_turn_allocations" ["shard"]
        "Relay allocations at present (RFC 8656).";
    TurnAllocated: Counter Count "shoal_turn_allocations_total" []
        "Relay allocations made.";
    TurnRequests: Counter Count "shoal_turn_requests_total" ["result"]
        "TURN requests answered: granted, or by the error code of the answer.";
    TurnRefusals: Counter Count "shoal_turn_refusals_total" ["reason"]
        "TURN requests without good credentials, by what was wrong. Each client's first one is among them.";
    TurnRelayed: Counter Count "shoal_turn_relayed_datagrams_total" ["by"]
        "Datagrams relayed between clients and peers, as the ledger has them.";
    TurnRelayedBytes: Counter Bytes "shoal_turn_relayed_bytes_total" ["by"]
        "Bytes of their payloads.";
    TurnOffloaded: Gauge Count "shoal_turn_offloaded_channels" ["shard"]
        "Bound channels that XDP relays.";
    TurnQueue: Gauge Bytes "shoal_turn_receive_queue_bytes" ["shard"]
        "Memory of datagrams that wait in the shard's relay sockets, as of the last look at all of them.";
    TurnConnections: Gauge Count "shoal_turn_connections" ["shard", "transport"]
        "Open connections of TURN clients, by TCP or TLS.";
    TurnConnectionsAccepted: Counter Count "shoal_turn_connections_accepted_total" []
        "Connections of TURN clients accepted.";
    TurnConnectionsClosed: Counter Count "shoal_turn_connections_closed_total" ["reason"]
        "Connections of TURN clients closed, by reason.";
    TurnConnectionBytes: Counter Bytes "shoal_turn_connection_bytes_total" ["direction"]
        "Bytes received and sent by TCP and TLS, TLS's own included.";
    PunchRegistrations: Gauge Count "shoal_punch_registrations" ["shard"]
        "Peers registered at present, to be introduced to one another.";
    PunchRegistered: Counter Count "shoal_punch_registrations_total" []
        "Registrations made.";
    PunchIntroductions: Counter Count "shoal_punch_introductions_total" ["result"]
        "Introductions: made, and of those over whether the peer that was asked for had answered.";
    PunchRefusals: Counter Count "shoal_punch_refusals_total" ["reason"]
        "Registrations and introductions refused. Each peer's first request is among them.";
    ObservationsLost: Counter Count "shoal_punch_observations_lost_total" ["where"]
        "Changes of registrations that the control plane was not told of, because it was away or behind.";
    PlaybackRequests: Counter Count "shoal_cmcd_requests_total" []
        "Requests of viewers that said something of their playback (CMCD).";
    PlaybackLost: Counter Count "shoal_cmcd_lost_total" ["where"]
        "Requests (shard) or sums of one viewer over ten seconds (link) that the control plane was not told of: too many viewers, or it was away.";
    XdpInterfaces: Gauge Count "shoal_xdp_interfaces" ["mode"]
        "Interfaces that the XDP program is attached to, by how they run it.";
    XdpPackets: Counter Count "shoal_xdp_packets_total" ["verdict"]
        "Packets that the XDP program has seen, by what it did with them.";
    XdpRedirects: Counter Count "shoal_xdp_redirects_total" []
        "Packets that the XDP program has sent on to the CPU of their owner.";
    XdpSockets: Gauge Count "shoal_xdp_sockets" ["mode"]
        "AF_XDP sockets, one for each queue, by how frames get to them.";
    XdpFrames: Counter Count "shoal_xdp_frames_total" ["shard", "direction"]
        "Frames received and sent by them, each with a datagram that is counted among those of UDP, too.";
    XdpFramesLost: Counter Count "shoal_xdp_frames_lost_total" ["shard"]
        "Frames that the kernel dropped because too many waited in such a socket.";
    ShardCpu: Counter Seconds "shoal_shard_cpu_seconds_total" ["shard"]
        "CPU time of the shard's thread.";
    ShardBusy: Gauge Ratio "shoal_shard_busy_ratio" ["shard"]
        "Fraction of the last second that the shard's thread was on the CPU.";
    ShardTicks: Counter Count "shoal_shard_heartbeats_total" ["shard"]
        "Heartbeats; a shard without any for 5 s is unhealthy.";
    Handovers: Counter Count "shoal_mesh_handovers_total" ["kind"]
        "Messages sent to another shard, by kind.";
    LaneFull: Counter Count "shoal_mesh_lane_full_total" []
        "Messages refused because the lane to another shard was full.";
    RingSubmitted: Counter Count "shoal_ring_submissions_total" ["shard"]
        "Entries submitted to the shard's io_uring.";
    RingCompleted: Counter Count "shoal_ring_completions_total" ["shard"]
        "Completions taken from the shard's io_uring.";
    RingEnters: Counter Count "shoal_ring_enters_total" ["shard"]
        "System calls that entered the shard's io_uring.";
    RingInFlight: Gauge Count "shoal_ring_in_flight" ["shard"]
        "Entries that the shard's io_uring has not completed; idle connections have one each.";
    RingBuffersTaken: Gauge Count "shoal_ring_buffers_taken" ["shard"]
        "Receive buffers that are not with the kernel.";
    RingNoBuffers: Counter Count "shoal_ring_no_buffers_total" ["shard"]
        "Receives that found no provided buffer (ENOBUFS).";
    LedgerEntries: Gauge Count "shoal_ledger_entries" ["shard"]
        "Usage entries not flushed yet.";
    LedgerShed: Counter Count "shoal_ledger_shed_sessions_total" ["where"]
        "Usage entries that lost their session, because there were too many; their bytes are kept.";
    SpoolBatches: Gauge Count "shoal_ledger_spool_batches" []
        "Batches of usage on disk that the control plane has not acknowledged.";
    SpoolBytes: Gauge Bytes "shoal_ledger_spool_bytes" []
        "Bytes of usage on disk that the control plane has not acknowledged.";
    SpoolErrors: Counter Count "shoal_ledger_spool_errors_total" []
        "Failed writes of usage to disk; the usage is kept in memory and written again.";
    LedgerLag: Gauge Seconds "shoal_ledger_lag_seconds" []
        "Age of the oldest usage that the control plane has not acknowledged.";
    SnapshotVersion: Gauge Count "shoal_snapshot_version" []
        "Version of the snapshot being served; 0 without one.";
    SnapshotsRefused: Counter Count "shoal_snapshots_refused_total" []
        "Snapshots that could not be used.";
    LinkConnected: Gauge Count "shoal_link_connected" []
        "1 while a control plane is connected.";
    LinkAttempts: Counter Count "shoal_link_attempts_total" ["result"]
        "Connections tried to control planes.";
    AccessLogDropped: Counter Count "shoal_access_log_dropped_total" []
        "Access log lines dropped because the writer was behind or failed.";
    Draining: Gauge Count "shoal_draining" []
        "1 from SIGTERM or a drain command on.";
    BuildInfo: Gauge Count "shoal_build_info" ["version"]
        "Always 1; the release is in the label.";
    ProcessCpu: Counter Seconds "process_cpu_seconds_total" []
        "CPU time of the process, user and system.";
    ProcessFds: Gauge Count "process_open_fds" []
        "Open file descriptors.";
    ProcessMaxFds: Gauge Count "process_max_fds" []
        "Limit of open file descriptors.";
    ProcessRss: Gauge Bytes "process_resident_memory_bytes" []
        "Resident memory.";
    ProcessStart: Gauge Seconds "process_start_time_seconds" []
        "Unix time at which the process started.";
}

macro_rules! series {
    ($(#[$doc:meta])* $enum:ident { $($id:ident: $family:ident [$($value:literal),*] $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $enum {
            $(#[doc = $help] $id,)*
        }

        impl $enum {
            /// All, in the order of the table.
            pub const ALL: &[$enum] = &[$($enum::$id),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The metric it belongs to, and its label values without `shard`.
            pub fn series(self) -> (Family, &'static [&'static str]) {
                match self {
                    $($enum::$id => (Family::$family, &[$($value),*]),)*
                }
            }
        }
    };
}

series! {
    /// What a shard adds to.
    Counter {
        BodyBytes: BodyBytes [] "Body bytes handed to the kernel for viewers.";
        WireBytes: WireBytes [] "All bytes handed to the kernel for viewers.";
        ConnectionsAccepted: ConnectionsAccepted [] "A client connection was accepted.";
        ClosedByPeer: ConnectionsClosed ["peer"] "The client closed in order.";
        ClosedReset: ConnectionsClosed ["reset"] "The connection broke.";
        ClosedDone: ConnectionsClosed ["done"] "Closed after an answer that asked for it (Connection: close, HTTP/1.0).";
        ClosedIdle: ConnectionsClosed ["idle"] "No request within the idle time.";
        ClosedHeadTimeout: ConnectionsClosed ["head_timeout"] "A head took too long.";
        ClosedSlow: ConnectionsClosed ["slow"] "Below the least send rate.";
        ClosedMemory: ConnectionsClosed ["memory"] "Read slower than others, and kept memory from being used that was needed.";
        ClosedMalformed: ConnectionsClosed ["malformed"] "Bytes that are no request, or no PROXY header.";
        ClosedUpstream: ConnectionsClosed ["upstream"] "The body could not be completed: every origin failed midway.";
        ClosedDrain: ConnectionsClosed ["drain"] "The node is going down.";
        RefusedPerShard: ConnectionsRefused ["shard"] "Too many connections on the shard.";
        RefusedPerAddress: ConnectionsRefused ["address"] "Too many connections of one address.";
        PacedResponses: PacedResponses [] "A response is paced.";
        LimitWait: LimitWait [] "A piece of a body waited, microseconds.";
        TlsFull12: TlsHandshakes ["1.2", "full"] "A full handshake of TLS 1.2.";
        TlsResumed12: TlsHandshakes ["1.2", "resumed"] "A resumed session of TLS 1.2.";
        TlsFull13: TlsHandshakes ["1.3", "full"] "A full handshake of TLS 1.3.";
        TlsResumed13: TlsHandshakes ["1.3", "resumed"] "A resumed session of TLS 1.3.";
        TlsNotTls: TlsFailures ["not_tls"] "What came first is no TLS.";
        TlsPlainHttp: TlsFailures ["plain_http"] "A plain HTTP request came.";
        TlsTimeout: TlsFailures ["timeout"] "Not complete within the time for a head.";
        TlsClosed: TlsFailures ["closed"] "The client closed or reset the connection.";
        TlsAlert: TlsFailures ["alert"] "The client sent an alert: it does not like the certificate, most often.";
        TlsIncompatible: TlsFailures ["incompatible"] "No version, cipher or protocol in common.";
        TlsMalformed: TlsFailures ["malformed"] "The client broke the protocol.";
        EvictedBlocks: CacheEvictions ["block"] "A block was evicted.";
        EvictedObjects: CacheEvictions ["object"] "An object was evicted.";
        PurgedObjects: CachePurged [] "An object was purged.";
        FrontHits: FrontLookups ["hit"] "A block of another shard was at hand.";
        FrontMisses: FrontLookups ["miss"] "A block of another shard had to be asked for.";
        DiskRead: DiskBytes ["read"] "Bytes read from disk.";
        DiskWritten: DiskBytes ["write"] "Bytes written to disk.";
        DiskHits: DiskLookups ["hit"] "A block came from disk.";
        DiskMisses: DiskLookups ["miss"] "A block was not there any more, or another one was.";
        DiskCorrupt: DiskLookups ["corrupt"] "A checksum was wrong.";
        DiskTimeouts: DiskLookups ["timeout"] "A read took too long.";
        DiskBusy: DiskLookups ["busy"] "Too many reads were under way.";
        DiskReadErrors: DiskLookups ["error"] "A read failed.";
        DiskOpenErrors: DiskErrors ["open"] "A volume could not be opened.";
        DiskWriteErrors: DiskErrors ["write"] "A write failed.";
        DiskJournalErrors: DiskErrors ["journal"] "What was purged could not be written down.";
        DiskWriteDrops: DiskWriteDrops [] "A block was not written.";
        ArenaFailures: ArenaFailures [] "No block could be had.";
        FlightsStarted: FlightsStarted [] "A fetch was started.";
        FlightWaiters: FlightWaiters [] "A request joined a fetch.";
        Hedges: UpstreamHedges [] "A second origin was asked.";
        UdpDatagramsIn: UdpDatagrams ["in"] "A datagram came.";
        UdpDatagramsOut: UdpDatagrams ["out"] "The kernel took a datagram.";
        UdpBytesIn: UdpBytes ["in"] "Bytes came.";
        UdpBytesOut: UdpBytes ["out"] "The kernel took bytes.";
        UdpTrainsIn: UdpTrains ["in"] "A train came.";
        UdpTrainsOut: UdpTrains ["out"] "The kernel was given a train.";
        UdpStrays: UdpStrays [] "A message came to another shard than its owner.";
        UdpQueueDrops: UdpQueueDrops [] "A queue was full.";
        StunAnswered: StunAnswers ["stun", "success"] "A Binding request was answered.";
        StunRefused: StunAnswers ["stun", "error"] "It was answered by an error.";
        ClassicAnswered: StunAnswers ["classic", "success"] "A classic Binding request was answered.";
        ClassicRefused: StunAnswers ["classic", "error"] "It was answered by an error.";
        TurnBySockets: TurnRelayed ["sockets"] "Relayed in user space.";
        TurnByXdp: TurnRelayed ["xdp"] "Relayed by XDP.";
        TurnBytesBySockets: TurnRelayedBytes ["sockets"] "Bytes of the first.";
        TurnBytesByXdp: TurnRelayedBytes ["xdp"] "Bytes of the second.";
        TurnAllocated: TurnAllocated [] "A relay allocation was made.";
        TurnGranted: TurnRequests ["granted"] "A TURN request was granted.";
        TurnConnectionsAccepted: TurnConnectionsAccepted [] "A connection was accepted.";
        TurnClosedByPeer: TurnConnectionsClosed ["peer"] "The client closed in order.";
        TurnClosedReset: TurnConnectionsClosed ["reset"] "The connection broke.";
        TurnClosedMalformed: TurnConnectionsClosed ["malformed"] "Bytes that are neither STUN nor ChannelData, or no TLS.";
        TurnClosedTooLong: TurnConnectionsClosed ["too_long"] "A message longer than any that a client without an allocation has to send.";
        TurnClosedNoCertificate: TurnConnectionsClosed ["no_certificate"] "TLS, where there are no certificates.";
        TurnClosedHandshake: TurnConnectionsClosed ["handshake"] "The TLS handshake failed.";
        TurnClosedGreeting: TurnConnectionsClosed ["greeting"] "No whole message in time.";
        TurnClosedIdle: TurnConnectionsClosed ["idle"] "No allocation, and nothing came.";
        TurnClosedNoAllocation: TurnConnectionsClosed ["no_allocation"] "No allocation for too long.";
        TurnClosedReplaced: TurnConnectionsClosed ["replaced"] "The client has connected anew from the same port.";
        TurnClosedPerShard: TurnConnectionsClosed ["shard"] "Too many connections on the shard.";
        TurnClosedPerAddress: TurnConnectionsClosed ["address"] "Too many connections of one address.";
        TurnClosedBlocked: TurnConnectionsClosed ["blocked"] "Of an address that is blocked.";
        TurnBytesIn: TurnConnectionBytes ["in"] "Bytes came.";
        TurnBytesOut: TurnConnectionBytes ["out"] "The kernel took bytes.";
        PunchRegistered: PunchRegistered [] "A peer was registered.";
        PunchIntroductions: PunchIntroductions ["made"] "Two peers were introduced.";
        PunchAnswered: PunchIntroductions ["answered"] "The second of them has answered.";
        PunchUnanswered: PunchIntroductions ["unanswered"] "It has not.";
        ObservationsLost: ObservationsLost ["shard"] "Too many had ended that nobody had been told of.";
        ObservationsUnsent: ObservationsLost ["link"] "Too many waited for the control plane.";
        PlaybackRequests: PlaybackRequests [] "A request had CMCD.";
        PlaybackLost: PlaybackLost ["shard"] "Too many viewers.";
        PlaybackUnsent: PlaybackLost ["link"] "Too much waited for the control plane.";
        ShardCpu: ShardCpu [] "CPU time of the shard's thread, microseconds.";
        HandoverLookup: Handovers ["lookup"] "A request's question to the owner of its object.";
        HandoverReply: Handovers ["reply"] "The owner's answer.";
        HandoverProgress: Handovers ["progress"] "A question for a block, or for more of one in flight.";
        HandoverDatagram: Handovers ["datagram"] "A client's datagram, to the shard that has what it is about.";
        HandoverFrame: Handovers ["frame"] "A datagram that came to another shard than its owner.";
        FramesIn: XdpFrames ["in"] "Frames received.";
        FramesOut: XdpFrames ["out"] "Frames sent.";
        FramesLost: XdpFramesLost [] "Frames dropped by the kernel.";
        LaneFull: LaneFull [] "A lane to another shard was full.";
        RingSubmitted: RingSubmitted [] "Entries submitted.";
        RingCompleted: RingCompleted [] "Completions taken.";
        RingEnters: RingEnters [] "Enter system calls.";
        RingNoBuffers: RingNoBuffers [] "ENOBUFS.";
        LedgerShed: LedgerShed ["shard"] "A session was not kept apart: too many in one interval.";
    }
}

series! {
    /// What a shard sets.
    Gauge {
        Connections: Connections [] "Open client connections.";
        CacheBytes: CacheBytes [] "Bytes of objects in RAM.";
        CacheObjects: CacheObjects [] "Objects known.";
        CacheBlocks: CacheBlocks [] "Blocks in RAM.";
        FrontBytes: FrontBytes [] "Bytes pinned by the front index.";
        DiskEntries: DiskEntries [] "Blocks on disk.";
        DiskQueued: DiskQueued [] "Bytes that wait to be written.";
        DiskUp: DiskDevices ["up"] "Devices in use.";
        DiskDown: DiskDevices ["down"] "Devices that fail.";
        DiskRecovery: DiskRecovery [] "Time to find what is on disk, microseconds.";
        ArenaUsed: ArenaUsed [] "Bytes of the arena in use.";
        ArenaCapacity: ArenaCapacity [] "Bytes of the arena.";
        ArenaPinned: ArenaPinned [] "Bytes of the arena only readers hold.";
        Flights: Flights [] "Fetches under way.";
        UdpQueue: UdpQueue [] "Memory of what waits.";
        UdpQueueMax: UdpQueueMax [] "Bound of the fullest queue.";
        TurnAllocations: TurnAllocations [] "Relay allocations.";
        TurnOffloaded: TurnOffloaded [] "Channels that XDP relays.";
        TurnQueue: TurnQueue [] "Memory of what waits for relays.";
        TurnTcp: TurnConnections ["tcp"] "Open connections without TLS.";
        TurnTls: TurnConnections ["tls"] "Open connections with TLS.";
        PunchRegistrations: PunchRegistrations [] "Peers registered.";
        RingInFlight: RingInFlight [] "Entries not completed.";
        RingBuffersTaken: RingBuffersTaken [] "Receive buffers not with the kernel.";
        BusyPermille: ShardBusy [] "Thousandths of the last second on the CPU.";
        LedgerEntries: LedgerEntries [] "Usage entries not flushed yet.";
    }
}

series! {
    /// What the housekeeping thread counts for the whole node.
    Node {
        SpoolShed: LedgerShed ["spool"] "An entry lost its session because the spool was full.";
        SpoolBatches: SpoolBatches [] "Batches not acknowledged.";
        SpoolBytes: SpoolBytes [] "Bytes not acknowledged.";
        SpoolErrors: SpoolErrors [] "Failed writes.";
        LedgerLag: LedgerLag [] "Age of the oldest unacknowledged usage, microseconds.";
        SnapshotVersion: SnapshotVersion [] "Version being served.";
        SnapshotsRefused: SnapshotsRefused [] "Snapshots refused.";
        LinkConnected: LinkConnected [] "1 while connected.";
        LinkSucceeded: LinkAttempts ["connected"] "A control plane answered.";
        LinkFailed: LinkAttempts ["failed"] "A control plane did not answer, or not well.";
        TlsReloaded: TlsReloads ["loaded"] "A changed certificate is served.";
        TlsReloadFailed: TlsReloads ["failed"] "A changed certificate cannot be used; the old one is served.";
        TlsExpiry: TlsExpiry [] "When the first certificate expires, microseconds.";
        AccessLogDropped: AccessLogDropped [] "Lines dropped.";
        XdpNative: XdpInterfaces ["native"] "By the driver.";
        XdpGeneric: XdpInterfaces ["generic"] "By the kernel's stack.";
        XdpOffloaded: XdpInterfaces ["offloaded"] "By the network card.";
        XdpRedirects: XdpRedirects [] "Packets sent on to another CPU.";
        SteeredToOwner: UdpSteered ["owner"] "The owner's socket was chosen.";
        SteeredByKernel: UdpSteered ["kernel"] "There was none; the kernel chose.";
        XdpCopy: XdpSockets ["copy"] "Copied.";
        XdpZeroCopy: XdpSockets ["zero_copy"] "Not copied.";
        Draining: Draining [] "1 while draining.";
    }
}
