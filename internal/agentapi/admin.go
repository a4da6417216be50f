package agentapi

import (
	"net/http"
	"strings"

	"troupe/internal/puppet"
)

// This file answers /puppet-admin-api/v1, with which deploys tell the real
// server that code changed. Here a change is noticed anyway; the calls force a
// fresh look and are answered alike (puppet_admin_core.clj).

func (a *API) admin(w http.ResponseWriter, q *request) error {
	switch q.key {
	case "v1/environment-cache":
		if q.Method != http.MethodDelete {
			w.Header().Set("Allow", http.MethodDelete)
			return plainProblem(http.StatusMethodNotAllowed, "Method not allowed.")
		}
		return a.dropEnvironments(w, q)
	case "v1/jruby-pool":
		if q.Method == http.MethodDelete {
			return a.forAll(w, q, a.reload)
		}
	}
	w.Header().Set("Content-Type", "text/html;charset=utf-8")
	writeBody(w, http.StatusNotFound, "Not Found")
	return nil
}

// dropEnvironments forgets one environment, or all.
func (a *API) dropEnvironments(w http.ResponseWriter, q *request) error {
	if name := q.params.Get("environment"); name != "" {
		if env, err := puppet.ParseEnvironment(name); err == nil {
			a.deployed(env) // an unknown name is no error there either
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return a.forAll(w, q, a.deployed)
}

// deployed is for an environment whose manifests and data may have changed.
func (a *API) deployed(env puppet.Environment) {
	a.code.Deployed(env)
	a.engine.Drop(env)
}

// reload is for one whose Ruby code is to be loaded again, as in a new process.
func (a *API) reload(env puppet.Environment) {
	a.code.Drop(env)
	a.engine.Reload(env)
}

func (a *API) forAll(w http.ResponseWriter, q *request, drop func(puppet.Environment)) error {
	list, err := a.code.Environments(q.Context())
	if err != nil {
		return err
	}
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = string(e.Name)
		drop(e.Name)
	}
	a.log.InfoContext(q.Context(), "environments dropped by request", "environments", strings.Join(names, ","))
	w.WriteHeader(http.StatusNoContent)
	return nil
}
