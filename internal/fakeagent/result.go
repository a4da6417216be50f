package fakeagent

// This file says what a run did, request by request.

import "time"

// Request is one request of a run, or one attempt of it if the server asked to come back later.
type Request struct {
	Kind       string // ca, crl, csr, certificate, renewal, node, metadata, content, catalog, bucket, report, facts
	Method     string
	Target     string
	Connection int // counts from 1 in each run
	Retries    int // how often the server has asked to come back before this attempt
	Status     int // 0 if there was no answer
	Start      time.Time
	Took       time.Duration
	Sent       int   // bytes of the body
	Received   int64 // bytes of the body as it travelled, compressed or not
	Err        error
}

// RunResult is what one run did. It is complete also when Run returns an error.
type RunResult struct {
	Certname        string
	TransactionUUID string
	Environment     string // in which the catalog was compiled
	CatalogUUID     string
	Status          string // unchanged, changed or failed, as in the report
	CachedCatalog   bool   // the server's catalog could not be had
	ReportSent      bool   // the server has acknowledged the report
	Resources       int
	Changed         int
	Failed          int
	Failures        []string // what went wrong, also where the run went on
	Connections     int
	Requests        []Request
	Took            time.Duration
}

// Exit is the status that `puppet agent -t` would end with.
func (r RunResult) Exit() int {
	switch {
	case r.CatalogUUID == "" && r.Resources == 0:
		return 1
	case r.Failed > 0 && r.Changed > 0:
		return 6
	case r.Failed > 0:
		return 4
	case r.Changed > 0:
		return 2
	default:
		return 0
	}
}

// Count returns how many requests of a kind were sent.
func (r RunResult) Count(kind string) int {
	n := 0
	for _, q := range r.Requests {
		if q.Kind == kind {
			n++
		}
	}
	return n
}
