package endpoints

// This file makes auth.conf files of many rules, one below each path, and the requests that try them. The paths lie below
// /puppet-ca/v1, where both servers judge before they look for a handler: 404 means allowed, 403 denied.

import (
	"encoding/pem"
	"fmt"
	"net/url"
	"strings"
)

// A ruleCase is what one or several rules share: a path and the requests below it.
type ruleCase struct {
	rules   []string // without path: the rest of a rule; "%s" stands for the case's path
	below   []string // what follows the path in requests; nil means the path alone
	methods []string // nil means GET
}

// ruleCases are numbered; case 7 has the path /puppet-ca/v1/r7.
func ruleCases() []ruleCase {
	path := func(rest string) string { return `match-request: { path: "%s", type: path }, sort-order: 500, ` + rest }
	regex := func(pattern, rest string) string {
		return `match-request: { path: "` + pattern + `", type: regex }, sort-order: 500, ` + rest
	}
	matching := func(condition, rest string) string {
		return `match-request: { path: "%s", type: path, ` + condition + ` }, sort-order: 500, ` + rest
	}
	ordered := func(order int, rest string) string {
		return fmt.Sprintf(`match-request: { path: "%%s", type: path }, sort-order: %d, %s`, order, rest)
	}
	var cases []ruleCase
	for _, who := range []string{
		`allow: "*"`, `allow: "agent.example.test"`, `allow: "AGENT.example.test"`, `allow: "*.example.test"`, `allow: "*.test"`, `allow: "*.other.test"`,
		`allow: ["agent.example.test", "other.example.test"]`, `allow: "/^agent/"`, `allow: "/agent/"`, `allow: "/^agent$/"`, `allow: "/\\.example\\.test$/"`,
		`allow: "/^(agent|cli)\\./"`, `allow: "/^AGENT/"`, `allow: "/(?i)^AGENT/"`, `allow: "example.test"`, `allow: []`, `deny: "*"`, `deny: []`,
		`allow-unauthenticated: true`, `allow: "*", deny: "agent.example.test"`, `allow: "agent.example.test", deny: "*.example.test"`,
		`allow: "*", deny: "/^a/"`, `deny: "agent.example.test"`, `allow: { certname: "agent.example.test" }`, `allow: [{ certname: "agent.example.test" }, "other.example.test"]`,
		`allow: { extensions: { pp_cli_auth: "true" } }`, `allow: { extensions: { pp_cli_auth: "false" } }`, `allow: { extensions: { pp_role: "web" } }`,
		`allow: { extensions: { pp_role: ["db", "web"] } }`, `allow: { extensions: { pp_role: "web", pp_cli_auth: "true" } }`, `allow: { extensions: { "1.3.6.1.4.1.34380.1.1.13": "web" } }`,
		`allow: { extensions: { pp_role: "WEB" } }`, `allow: { extensions: { nosuch: "x" } }`, `allow: { extensions: {} }`, `allow: "*", deny: { extensions: { pp_role: "web" } }`,
		`allow: "_under"`, `allow: "a@b"`,
	} {
		cases = append(cases, ruleCase{rules: []string{path(who)}})
	}
	names := []string{"/agent.example.test", "/other.example.test", "/agent.example.test/x", "/AGENT.example.test", "/agent", "/x", ""}
	cases = append(cases,
		ruleCase{rules: []string{regex(`^%s/([^/]+)$`, `allow: "$1"`)}, below: names},
		ruleCase{rules: []string{regex(`^%s/([^/]+)`, `allow: "$1"`)}, below: names},
		ruleCase{rules: []string{regex(`^%s/([^/]+)$`, `allow: "$1.example.test"`)}, below: names},
		ruleCase{rules: []string{regex(`^%s/([^/]+)$`, `allow: "*.$1"`)}, below: append(names, "/example.test", "/test")},
		ruleCase{rules: []string{regex(`^%s/([^/]+)/([^/]+)$`, `allow: "$2"`)}, below: append(names, "/x/agent.example.test", "/agent.example.test/x")},
		ruleCase{rules: []string{regex(`^%s/([^/]+)$`, `allow: "*", deny: "$1"`)}, below: names},
		ruleCase{rules: []string{regex(`^%s/([^/]+)$`, `allow: ["$1", "cli.example.test"]`)}, below: names},
		ruleCase{rules: []string{regex(`%s`, `allow: "*"`)}, below: []string{"", "/x", "x"}},
		ruleCase{rules: []string{regex(`%s$`, `allow: "*"`)}, below: []string{"", "/x", "x", "/"}},
		ruleCase{rules: []string{regex(`^%s/[a-z]+\\d{2}$`, `allow: "*"`)}, below: []string{"/web01", "/web1", "/WEB01", "/web01/", "/web01%0a"}},
		ruleCase{rules: []string{regex(`(?i)^%s/Web$`, `allow: "*"`)}, below: []string{"/web", "/WEB"}},
		ruleCase{rules: []string{path(`allow: "*"`)}, below: []string{"/", "/x", "x", "/x/y", "%2Fx", "//x", ";a=b", "?x=1", "/%78", "/./x"}},
		ruleCase{rules: []string{matching(`method: get`, `allow: "*"`)}, methods: methods},
		ruleCase{rules: []string{matching(`method: [put, post]`, `allow: "*"`)}, methods: methods},
		ruleCase{rules: []string{matching(`method: [get, head, put, post, delete]`, `allow-unauthenticated: true`)}, methods: methods},
		ruleCase{rules: []string{path(`allow: "*"`)}, methods: methods},
		ruleCase{rules: []string{matching(`method: GET`, `allow: "*"`)}, methods: methods},
	)
	queries := []string{"", "?environment=production", "?environment=test", "?environment=", "?environment", "?environment=production&x=1", "?x=1", "?environment=production&environment=test", "?environment=test&environment=production", "?environment=%70roduction", "?ENVIRONMENT=production", "?environment=production&tier=a", "?tier=a"}
	for _, condition := range []string{`environment: production`, `environment: [production, test]`, `environment: production, tier: a`, `environment: "pro.*"`, `environment: ""`} {
		cases = append(cases, ruleCase{rules: []string{matching(`query-params: { `+condition+` }`, `allow: "*"`)}, below: queries})
	}
	return append(cases,
		ruleCase{rules: []string{ordered(500, `allow: "*"`), ordered(400, `deny: "agent.example.test"`)}},
		ruleCase{rules: []string{ordered(400, `allow: "*"`), ordered(500, `deny: "agent.example.test"`)}},
		ruleCase{rules: []string{ordered(500, `deny: "agent.example.test"`), ordered(500, `allow: "*"`)}},
		ruleCase{rules: []string{ordered(500, `allow: "*"`), ordered(500, `deny: "agent.example.test"`)}},
		ruleCase{rules: []string{ordered(1, `deny: "*"`), ordered(999, `allow: "*"`)}},
		ruleCase{rules: []string{ordered(400, `allow: "agent.example.test"`), ordered(500, `allow-unauthenticated: true`)}},
		ruleCase{rules: []string{matching(`method: put`, `allow-unauthenticated: true`), ordered(600, `allow: "agent.example.test"`)}, methods: []string{"GET", "PUT", "POST"}},
		ruleCase{below: []string{"", "/x"}}, // no rule at all
	)
}

func casePath(i int) string { return fmt.Sprintf("/puppet-ca/v1/r%d", i) }

// readiness lets the test see that a server has started.
const readiness = `  { match-request: { path: "/status/v1/simple", type: path }, allow-unauthenticated: true, sort-order: 1, name: "readiness" }
`

// rulesConf is the auth.conf of all cases. There is no rule for the rest.
func rulesConf() string {
	var b strings.Builder
	b.WriteString("authorization: {\n version: 1\n rules: [\n" + readiness)
	for i, c := range ruleCases() {
		for j, rule := range c.rules {
			fmt.Fprintf(&b, "  { %s, name: \"case %d rule %d\" }\n", strings.ReplaceAll(rule, "%s", casePath(i)), i, j)
		}
	}
	b.WriteString(" ]\n}\n")
	return b.String()
}

func ruleRequests() []Request {
	var all []Request
	for i, c := range ruleCases() {
		below, verbs := c.below, c.methods
		if below == nil {
			below = []string{""}
		}
		if verbs == nil {
			verbs = []string{"GET"}
		}
		for _, rest := range below {
			for _, method := range verbs {
				for _, as := range []string{"", "agent", "other", "cli", "server", "revoked"} {
					all = append(all, Request{Endpoint: "auth.conf: rules", As: as, Method: method, Target: casePath(i) + rest})
				}
			}
		}
	}
	return all
}

// headersConf takes identities from headers.
const headersConf = `authorization: {
 version: 1
 allow-header-cert-info: true
 rules: [
` + readiness + `  { match-request: { path: "/puppet-ca/v1/named", type: path }, allow: "agent.example.test", sort-order: 500, name: "named" }
  { match-request: { path: "/puppet-ca/v1/anybody", type: path }, allow: "*", sort-order: 500, name: "anybody" }
  { match-request: { path: "/puppet-ca/v1/open", type: path }, allow-unauthenticated: true, sort-order: 500, name: "open" }
  { match-request: { path: "/puppet-ca/v1/extension", type: path }, allow: { extensions: { pp_role: web } }, sort-order: 500, name: "extension" }
  { match-request: { path: "/puppet-ca/v1/denied", type: path }, allow: "*", deny: "agent.example.test", sort-order: 500, name: "denied" }
 ]
}
`

// headerRequests send identities in headers. "CERT name" in a header stands for the percent-encoded certificate of an identity.
func headerRequests() []Request {
	var headers [][]string
	for _, verify := range []string{"SUCCESS", "success", "NONE", "FAILED:expired", "SUCCESS ", ""} {
		headers = append(headers, []string{"X-Client-Verify: " + verify, "X-Client-DN: CN=agent.example.test"})
	}
	headers = append(headers, nil, []string{"X-Client-Verify: SUCCESS"}, []string{"X-Client-DN: CN=agent.example.test"})
	for _, dn := range []string{
		"/CN=agent.example.test", "/O=x/CN=agent.example.test", "/CN=agent.example.test/O=x", "CN=agent.example.test,O=x", "O=x,CN=agent.example.test", "O=x, CN=agent.example.test",
		"cn=agent.example.test", "/cn=agent.example.test", "CN = agent.example.test", `CN="agent.example.test"`, `CN=agent\.example.test`, `CN=#61`, "CN=agent.example.test+O=x", "O=x+CN=agent.example.test",
		"CN=other.example.test,CN=agent.example.test", "CN=agent.example.test,CN=other.example.test", "/CN=other.example.test/CN=agent.example.test", "CN=", "/CN=", "O=x", "agent.example.test", "/", ",",
		"CN=AGENT.example.test", "CN=agent.example.test;O=x", "emailAddress=a@b,CN=agent.example.test", "2.5.4.3=agent.example.test", "CN=agent.example.test,", "CN=agent example", "CN=*", "CN=agent.example.test\\,O=x",
	} {
		headers = append(headers, []string{"X-Client-Verify: SUCCESS", "X-Client-DN: " + dn})
	}
	for _, cert := range []string{"CERT agent", "CERT other", "PLUS agent", "RAW agent", "TWICE agent", "LOWER agent", "nosuch", "%zz", "-----BEGIN%20CERTIFICATE-----", "%2D", ""} {
		headers = append(headers,
			[]string{"X-Client-Verify: SUCCESS", "X-Client-DN: CN=agent.example.test", "X-Client-Cert: " + cert},
			[]string{"X-Client-Cert: " + cert},
			[]string{"X-Client-Verify: NONE", "X-Client-DN: CN=agent.example.test", "X-Client-Cert: " + cert})
	}
	headers = append(headers, []string{"X-Client-Verify: SUCCESS", "X-Client-DN: CN=agent.example.test", "X-Client-DN: CN=other.example.test"})

	var all []Request
	for _, path := range []string{"named", "anybody", "open", "extension", "denied", "nosuch"} {
		for i, header := range headers {
			all = append(all, Request{Endpoint: "auth.conf: identity in headers", Method: "GET", Target: "/puppet-ca/v1/" + path, Header: header})
			if i < 10 { // the certificate of the connection must mean nothing
				all = append(all, Request{Endpoint: "auth.conf: identity in headers", As: "agent", Method: "GET", Target: "/puppet-ca/v1/" + path, Header: header})
			}
		}
	}
	return all
}

// certificateHeader spells an identity's certificate as a proxy, or a bad proxy, puts it into a header.
func (s *site) certificateHeader(value string) string {
	spelling, as, ok := strings.Cut(value, " ")
	if !ok || s.identities[as].Leaf == nil {
		return value
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.identities[as].Leaf.Raw}))
	switch spelling {
	case "CERT":
		return url.PathEscape(text)
	case "PLUS":
		return url.QueryEscape(text)
	case "RAW":
		return strings.ReplaceAll(text, "\n", " ")
	case "TWICE":
		return url.PathEscape(text + text)
	case "LOWER":
		return strings.ToLower(url.PathEscape("\n")) + strings.ReplaceAll(url.PathEscape(text), "%0A", "%0a")
	}
	return value
}
