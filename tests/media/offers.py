"""Offers in the shapes of today's browsers, shortened: what stands in them and where, not every codec."""

FINGERPRINT = "a=fingerprint:sha-256 " + ":".join(f"{n:02X}" for n in range(32))

CHROMIUM = f"""\
v=0
o=- 4611731400430051336 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1 2
a=extmap-allow-mixed
a=msid-semantic: WMS stream
m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=candidate:1 1 udp 2113937151 8f2e-11.local 54321 typ host generation 0 network-cost 999
a=ice-ufrag:EsAw
a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1
a=ice-options:trickle
{FINGERPRINT}
a=setup:actpass
a=mid:0
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=sendrecv
a=msid:stream track
a=rtcp-mux
a=rtcp-rsize
a=rtpmap:111 opus/48000/2
a=rtcp-fb:111 transport-cc
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:63 red/48000/2
a=fmtp:63 111/111
a=rtpmap:9 G722/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:13 CN/8000
a=rtpmap:110 telephone-event/48000
a=rtpmap:126 telephone-event/8000
a=ssrc:1557912193 cname:KcyXxv6oIOJJo/ZR
m=video 9 UDP/TLS/RTP/SAVPF 96 97
c=IN IP4 0.0.0.0
a=ice-ufrag:EsAw
a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1
{FINGERPRINT}
a=setup:actpass
a=mid:1
a=recvonly
a=rtcp-mux
a=rtpmap:96 VP8/90000
a=rtpmap:97 rtx/90000
a=fmtp:97 apt=96
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=ice-ufrag:EsAw
a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1
{FINGERPRINT}
a=setup:actpass
a=mid:2
a=sctp-port:5000
a=max-message-size:262144
"""

FIREFOX = f"""\
v=0
o=mozilla...THIS_IS_SDPARTA-99.0 8713262349071 0 IN IP4 0.0.0.0
s=-
t=0 0
a=sendrecv
{FINGERPRINT}
a=group:BUNDLE 0
a=ice-options:trickle
a=msid-semantic:WMS *
m=audio 9 UDP/TLS/RTP/SAVPF 109 9 0 8 101
c=IN IP4 0.0.0.0
a=sendrecv
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=fmtp:109 maxplaybackrate=48000;stereo=1;useinbandfec=1
a=fmtp:101 0-15
a=ice-pwd:3b1fd6a9d5cf4f2ecbbe7d3a1a1b2c3d
a=ice-ufrag:1f2e3d4c
a=mid:0
a=msid:{{c9a1}} {{d8b2}}
a=rtcp-mux
a=rtpmap:109 opus/48000/2
a=rtpmap:9 G722/8000/1
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:101 telephone-event/8000
a=setup:actpass
a=ssrc:2655508255 cname:{{735484ea}}
"""

SAFARI = f"""\
v=0
o=- 8186732184365498127 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE audio-1
a=msid-semantic: WMS
m=audio 54400 UDP/TLS/RTP/SAVPF 96 101
c=IN IP4 203.0.113.7
a=rtcp:9 IN IP4 0.0.0.0
a=candidate:842163049 1 udp 1677729535 203.0.113.7 54400 typ srflx raddr 0.0.0.0 rport 0 generation 0
a=candidate:1 2 udp 2113937150 192.0.2.9 9 typ host
a=candidate:7 1 tcp 1518280447 fe80::1%en0 9 typ host tcptype active
a=end-of-candidates
a=ice-ufrag:6Kpq
a=ice-pwd:mJ9xKWb0yRnPzcYvDq2L7sTe
a=ice-options:trickle renomination
a=fingerprint:sha-1 {":".join(["AB"] * 20)}
{FINGERPRINT.lower().replace("sha-256", "SHA-256")}
a=setup:actpass
a=mid:audio-1
a=sendrecv
a=rtcp-mux
a=rtpmap:96 OPUS/48000/2
a=rtpmap:101 telephone-event/8000
"""

SHAPES = {"Chromium": CHROMIUM, "Firefox": FIREFOX, "Safari": SAFARI}
