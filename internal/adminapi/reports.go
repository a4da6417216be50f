package adminapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"troupe/internal/fault"
	"troupe/internal/puppet"
	"troupe/internal/store"
)

// This file lists and shows the stored reports.

// Report is one line of the list of reports.
type Report struct {
	ID              string    `json:"id"`
	Certname        string    `json:"certname"`
	Status          string    `json:"status"`
	Environment     string    `json:"environment"`
	TransactionUUID string    `json:"transaction_uuid"`
	Time            time.Time `json:"time"`
	Seconds         float64   `json:"seconds"`
	Noop            bool      `json:"noop"`
	PuppetVersion   string    `json:"puppet_version"`
	Resources       int       `json:"resources"`
	Changed         int       `json:"changed"`
	Failed          int       `json:"failed"`
	CachedCatalog   string    `json:"cached_catalog_status"`
}

// ReportDetail is a whole report: what happened, and the body as the agent sent it.
type ReportDetail struct {
	Report

	ConfigurationVersion string                        `json:"configuration_version"`
	Logs                 []puppet.ReportLog            `json:"logs"`
	Events               []puppet.ReportResource       `json:"resources_with_events"`
	Metrics              map[string]map[string]float64 `json:"metrics"`
	Raw                  json.RawMessage               `json:"raw,omitempty"`
}

// ReportQuery selects reports, newest first. Zero values select everything.
type ReportQuery struct {
	Certname string
	Status   string
	Limit    int
}

func (a *API) reports(r *http.Request) (any, error) {
	q := r.URL.Query()
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit < 0 {
		return nil, fault.New(fault.Invalid, "limit must be a number, not %q", q.Get("limit"))
	}
	list, err := a.m.Store.Reports(r.Context(), store.ReportQuery{
		Certname: puppet.Certname(q.Get("certname")), Status: q.Get("status"), Limit: limit,
	})
	if err != nil {
		return nil, err
	}
	out := make([]Report, len(list))
	for i, s := range list {
		out[i] = reportOf(s)
	}
	return out, nil
}

// Reports lists stored reports.
func (c *Client) Reports(ctx context.Context, q ReportQuery) ([]Report, error) {
	var out []Report
	v := url.Values{"certname": {q.Certname}, "status": {q.Status}, "limit": {strconv.Itoa(q.Limit)}}
	err := c.call(ctx, http.MethodGet, "/v1/reports?"+v.Encode(), nil, &out)
	return out, err
}

func reportOf(s store.ReportSummary) Report {
	return Report{
		ID: s.ID, Certname: string(s.Certname), Status: s.Status, Environment: string(s.Environment), TransactionUUID: s.TransactionUUID,
		Time: s.Time, Seconds: s.EndTime.Sub(s.Time).Seconds(), Noop: s.Noop, PuppetVersion: s.PuppetVersion,
		Resources: s.Total, Changed: s.Changed, Failed: s.Failed, CachedCatalog: s.CachedCatalogStatus,
	}
}

func (a *API) report(r *http.Request) (any, error) {
	s, rep, err := a.m.Store.Report(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return ReportDetail{
		Report: reportOf(s), ConfigurationVersion: rep.ConfigurationVersion,
		Logs: rep.Logs, Events: rep.Resources, Metrics: rep.Metrics, Raw: rep.Raw,
	}, nil
}

// Report shows one report; the beginning of its id is enough.
func (c *Client) Report(ctx context.Context, id string) (ReportDetail, error) {
	var out ReportDetail
	if id == "" {
		return out, fmt.Errorf("which report? give its id, or the beginning of it")
	}
	err := c.call(ctx, http.MethodGet, "/v1/reports/"+url.PathEscape(id), nil, &out)
	return out, err
}
