package endpoints

// This file generates the requests: what is asked of every endpoint, in an order that both servers can follow.

import (
	"slices"
	"strings"
)

// An endpoint is one request that succeeds, and what is particular about it.
type endpoint struct {
	name   string
	as     string // an identity that may ask
	method string
	target string // path and query
	accept string // header Accept of the usual client; "" sends none
	sends  string // Content-Type; "" for an endpoint that takes no body
	body   string
	spare  string // the target for methods that would destroy it; "" means the same
	slow   bool   // a success costs the real server a minute: the first request only, the others are an agent's

	targets []string  // asked beside those that variations makes
	bodies  []string  // asked beside the empty and the broken one
	more    []Request // asked last; As, Method and Header of the endpoint where empty
}

var (
	identities = []string{"", "agent", "other", "cli", "admin", "server", "revoked", "foreign", "expired"}
	methods    = []string{"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "BREW"}
	accepts    = []string{
		"", "*/*", "application/json", "application/vnd.puppet.rich+json", "application/x-msgpack", "application/vnd.puppet.rich+msgpack",
		"text/pson", "text/yaml", "application/yaml", "s", "b64_zlib_yaml", "text/plain", "text/html", "application/octet-stream", "text/nosuch",
		"application/json;q=0.1, text/pson;q=0.9", "text/pson, application/json", "text/nosuch, application/json", "application/json; charset=utf-8",
		"APPLICATION/JSON", "json", "application/*", "*/*;q=0.5", "application/json;q=0", "application/json;version=1", ",", "/", "application/json,,", "a b c",
	}
	contentTypes = []string{
		"", "application/json", "text/pson", "application/x-msgpack", "application/x-www-form-urlencoded", "application/octet-stream",
		"text/plain", "application/json; charset=utf-8", "application/json;charset=ISO-8859-1", "text/yaml", "text/nosuch", "json", "/",
		"APPLICATION/JSON", "application/vnd.puppet.rich+json", "multipart/form-data",
	}
	encodings = []string{"gzip", "gzip;q=1.0,deflate;q=0.6,identity;q=0.3", "deflate", "gzip;q=0", "identity", "*"}
)

// requests returns the whole table.
func requests() []Request {
	var all []Request
	for _, e := range endpoints() {
		for _, q := range e.requests() {
			q.Endpoint = e.name
			all = append(all, q)
		}
	}
	return all
}

// base is the request that succeeds.
func (e endpoint) base() Request {
	q := Request{As: e.as, Method: e.method, Target: e.target, Body: e.body}
	if e.accept != "" {
		q.Header = append(q.Header, "Accept: "+e.accept)
	}
	if e.sends != "" {
		q.Header = append(q.Header, "Content-Type: "+e.sends)
	}
	return q
}

// with returns the request that succeeds, with one header replaced; "" leaves it out.
func (e endpoint) with(name, value string) Request {
	q := e.base()
	q.Header = slices.DeleteFunc(q.Header, func(line string) bool { return strings.HasPrefix(line, name+": ") })
	if value != "" {
		q.Header = append(q.Header, name+": "+value)
	}
	return q
}

func (e endpoint) requests() []Request {
	all := []Request{e.base()}
	for _, method := range methods {
		q := e.base()
		q.Method = method
		if method == "GET" || method == "HEAD" || method == "OPTIONS" {
			q.Body = ""
		}
		if e.spare != "" && method != e.method {
			q.Target = e.spare
		}
		all = append(all, q)
	}
	for _, as := range identities {
		q := e.base()
		q.As = as
		all = append(all, q)
	}
	if e.as != "" {
		all = append(all, Request{Method: "BREW", Target: e.target})
	}
	for _, accept := range accepts {
		all = append(all, e.with("Accept", accept))
	}
	for _, kind := range contentTypes {
		all = append(all, e.with("Content-Type", kind))
	}
	for _, encoding := range encodings {
		all = append(all, e.with("Accept-Encoding", encoding))
	}
	for _, target := range append(variations(e.target), e.targets...) {
		if e.slow && strings.Contains(target, "%6A") {
			continue // costs a minute as well
		}
		q := e.base()
		q.Target = target
		all = append(all, q)
	}
	if e.sends != "" {
		for _, body := range append([]string{"", "{", "[]", "null", `"text"`, "\x80\xff"}, e.bodies...) {
			q := e.base()
			q.Body = body
			all = append(all, q)
		}
	}
	for _, q := range e.more {
		b := e.base()
		if q.As == "nobody" {
			b.As = ""
		} else if q.As != "" {
			b.As = q.As
		}
		if q.Method != "" {
			b.Method = q.Method
		}
		if q.Target != "" {
			b.Target = q.Target
		}
		if q.Header != nil {
			b.Header = q.Header
		}
		b.Body = q.Body
		all = append(all, b)
	}
	if e.slow {
		for i := range all[1:] {
			if q := &all[1+i]; q.Method == e.method && q.As != "" {
				q.As = "agent"
			}
		}
	}
	return all
}

// variations spells a target wrongly, or in ways that a web server may or may not take for the same.
func variations(target string) []string {
	path, query, asked := strings.Cut(target, "?")
	mark := ""
	if asked {
		mark = "?" + query
	}
	cut := strings.LastIndexByte(path, '/')
	last := path[cut+1:]
	all := []string{
		path + "/nosuch" + mark, path + "x" + mark, strings.ToUpper(path) + mark, "/nosuch" + path + mark,
		path[:cut] + "/../" + last + mark, path[:cut] + "/./" + last + mark, path[:cut] + "%2F" + last + mark, path + "%zz" + mark,
		path + "%00" + mark, path[:cut] + "/%2e%2e/" + last + mark,
	}
	all = append(all,
		path+"/"+mark, path+"//"+mark, "/"+path+mark, path[:cut]+"//"+last+mark, path+";x=1"+mark, path[:cut]+"/"+escaped(last)+mark, path+"%20"+mark,
		path+"?nosuch=1&"+query, path+"?"+query+"&"+query, path+"?", path+"?&&=&"+query, path+"?%zz=1&"+query)
	if asked && strings.Contains(query, "environment=production") {
		for _, value := range []string{"", "=", "=nosuch", "=a-b", "=PRODUCTION", "=production%00", "=../production", "=broken", "=production&environment=nosuch", "[]=production"} {
			all = append(all, path+"?"+strings.Replace(query, "=production", value, 1))
		}
		all = append(all, path+"?"+strings.TrimSuffix(strings.Replace(query, "environment=production", "", 1), "&"))
	}
	return all
}

// escaped spells the first letter as an escape.
func escaped(segment string) string {
	const hex = "0123456789ABCDEF"
	if segment == "" {
		return "%2F"
	}
	return "%" + string(hex[segment[0]>>4]) + string(hex[segment[0]&15]) + segment[1:]
}
