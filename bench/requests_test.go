//go:build bench

package bench

// This file makes the requests: those of a run of an agent, with the facts of this machine.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// roles are the nodes: 10, 363 and 1,268 resources. Each node has one role and a name after it.
var roles = []string{"tiny", "web", "large"}

// facts are those of this machine, as an agent sends them for the node of a role.
func facts(t *testing.T, role string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "puppet", "facts", "show", "--show-legacy", "--render-as", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := json.Unmarshal(out[bytes.IndexByte(out, '{'):], &values); err != nil {
		t.Fatal(err)
	}
	values["role"], values["fqdn"], values["hostname"], values["clientcert"] = role, certname(role), role, certname(role)
	values["clientversion"], values["clientnoop"] = values["puppetversion"], false // an agent adds these itself
	if values["clientversion"] == nil {
		t.Fatal("the facts lack puppetversion")
	}
	if networking, ok := values["networking"].(map[string]any); ok {
		networking["fqdn"], networking["hostname"] = certname(role), role
	}
	now := time.Now().UTC()
	text, err := json.Marshal(map[string]any{
		"name": certname(role), "values": values,
		"timestamp": now.Format(time.RFC3339Nano), "expiration": now.Add(time.Hour).Format(time.RFC3339Nano),
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// catalog asks for the catalog of a role's node; the facts are escaped twice, as agents do.
func catalog(facts, role string) request {
	body := strings.Join([]string{
		"environment=production", "configured_environment=production", "check_environment=true",
		"facts_format=application%2Fjson", "facts=" + url.QueryEscape(url.QueryEscape(facts)),
		"transaction_uuid=00000000-0000-0000-0000-000000000000", "static_catalog=true",
		"checksum_type=sha256.sha384.sha512.sha224.md5",
	}, "&")
	return request{
		method: http.MethodPost, target: "/puppet/v3/catalog/" + certname(role) + "?environment=production",
		header: []string{
			"Content-Type", "application/x-www-form-urlencoded",
			"Accept", "application/vnd.puppet.rich+json, application/json, text/pson",
		},
		body: func() []byte { return []byte(body) },
	}
}

const permissions = "links=manage&checksum_type=sha256&source_permissions=ignore&environment=production"

func get(target, accept string) request {
	return request{method: http.MethodGet, target: target, header: []string{"Accept", accept}}
}

func metadata() request {
	return get("/puppet/v3/file_metadata/modules/profile/issue?"+permissions, "application/json, text/pson")
}

func content(name string) request {
	return get("/puppet/v3/file_content/modules/profile/"+name+"?environment=production", "application/octet-stream")
}

func plugins() request {
	return get("/puppet/v3/file_metadatas/plugins?max_files=-1&ignore=.svn&ignore=CVS&ignore=.git&ignore=.hg&recurse=true"+
		"&links=follow&checksum_type=sha256&source_permissions=ignore&environment=production", "application/json, text/pson")
}

func status() request { return get("/status/v1/simple", "*/*") }

// report is one of about 1 MB: a first run of 900 resources, each with an event. No two have the same transaction.
func report(t *testing.T, role string) request {
	t.Helper()
	const resources, mark = 900, "00000000-0000-4000-8000-000000000000"
	now := time.Now().UTC().Format(time.RFC3339Nano)
	statuses, logs := map[string]any{}, []any{}
	for i := range resources {
		path := fmt.Sprintf("/srv/www/site%04d/index.html", i)
		tags := []string{"file", "class", "profile::web", "profile", "web", "node", "apache::vhost"}
		sum := fmt.Sprintf("defined content as '{sha256}%064x'", i)
		statuses["File["+path+"]"] = map[string]any{
			"title": path, "file": "/srv/code/environments/production/modules/profile/manifests/web.pp", "line": 12,
			"resource": "File[" + path + "]", "resource_type": "File", "provider_used": "posix",
			"containment_path": []string{"Stage[main]", "Profile::Web", "File[" + path + "]"}, "evaluation_time": 0.0123,
			"tags": tags, "time": now, "failed": false, "failed_to_restart": false, "changed": true,
			"out_of_sync": true, "skipped": false, "change_count": 1, "out_of_sync_count": 1, "corrective_change": false,
			"events": []any{map[string]any{
				"audited": false, "property": "ensure", "previous_value": "absent", "desired_value": "file",
				"historical_value": nil, "message": sum, "name": "file_created", "status": "success", "time": now,
				"redacted": nil, "corrective_change": false,
			}},
		}
		logs = append(logs, map[string]any{
			"level": "notice", "message": sum, "source": "/Stage[main]/Profile::Web/File[" + path + "]/ensure",
			"tags": append([]string{"notice"}, tags...), "time": now, "file": nil, "line": nil,
		})
	}
	text, err := json.Marshal(map[string]any{
		"host": certname(role), "time": now, "configuration_version": 1795259666, "transaction_uuid": mark,
		"report_format": 12, "puppet_version": "7.23.0", "status": "changed", "transaction_completed": true,
		"noop": false, "noop_pending": false, "environment": "production", "logs": logs, "resource_statuses": statuses,
		"metrics": map[string]any{"resources": map[string]any{
			"name": "resources", "label": "Resources",
			"values": []any{[]any{"total", "Total", resources}, []any{"changed", "Changed", resources}},
		}},
		"corrective_change": false, "catalog_uuid": mark, "cached_catalog_status": "not_used",
		"server_used": "localhost:8140",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the report has %d bytes", len(text))

	var sent atomic.Int64
	return request{
		method: http.MethodPut, target: "/puppet/v3/report/" + certname(role) + "?environment=production",
		header: []string{"Content-Type", "application/json", "Accept", "application/json, text/pson"},
		body: func() []byte {
			return bytes.ReplaceAll(text, []byte(mark), fmt.Appendf(nil, "00000000-0000-4000-8000-%012d", sent.Add(1)))
		},
	}
}
