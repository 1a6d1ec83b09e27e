"""The baseline: what one writes in an afternoon with twisted.web and treq. No back-pressure, no errors, no features.

baseline_treq.py PORT UPSTREAM_URL CA_FILE
"""

import sys
from pathlib import Path

import treq
from treq.client import HTTPClient
from twisted.internet import endpoints, reactor, ssl
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.iweb import UNKNOWN_LENGTH
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

port, upstream, ca_file = sys.argv[1:]
HOP = {b"Connection", b"Keep-Alive", b"Transfer-Encoding", b"Content-Length", b"Host", b"Accept-Encoding"}

pool = HTTPConnectionPool(reactor)
pool.maxPersistentPerHost = 2000
trust = ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(Path(ca_file).read_bytes())])
client = HTTPClient(Agent(reactor, BrowserLikePolicyForHTTPS(trust), pool=pool))


class Proxy(Resource):
    isLeaf = True

    def render_POST(self, request):
        headers = {name: values for name, values in request.requestHeaders.getAllRawHeaders() if name not in HOP}
        body = request.content.read()
        asked = client.request("POST", upstream + request.uri.decode(), headers=headers, data=body, unbuffered=True)
        asked.addCallback(self.answer, request)
        asked.addErrback(lambda failure: request.channel and request.channel.abortConnection())
        return NOT_DONE_YET

    def answer(self, response, request):
        request.setResponseCode(response.code)
        for name, values in response.headers.getAllRawHeaders():
            request.responseHeaders.setRawHeaders(name, values)
        if response.length is not UNKNOWN_LENGTH:
            request.setHeader(b"content-length", b"%d" % response.length)
        return treq.collect(response, request.write).addCallback(lambda _: request.finish())


globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)])
endpoints.TCP4ServerEndpoint(reactor, int(port), backlog=2048, interface="127.0.0.1").listen(Site(Proxy()))
reactor.run()
