package adminapi

import (
	"context"
	"net/http"
	"net/url"

	"troupe/internal/deploy"
	"troupe/internal/puppet"
)

// This file deploys environments to all members.

func (a *API) deployments(r *http.Request) (any, error) { return a.m.Deployer.Status(r.Context()), nil }

// Deployments lists what is deployed, and what each member serves of it.
func (c *Client) Deployments(ctx context.Context) (all []deploy.Status, err error) {
	return all, c.call(ctx, http.MethodGet, "/v1/code", nil, &all)
}

func (a *API) deploy(r *http.Request) (any, error) {
	e, err := puppet.ParseEnvironment(r.PathValue("environment"))
	if err != nil {
		return nil, err
	}
	return a.m.Deployer.Deploy(r.Context(), e)
}

// Deploy makes what the member's folder of an environment holds the code of all members.
func (c *Client) Deploy(ctx context.Context, environment string) (d deploy.Deployment, err error) {
	return d, c.call(ctx, http.MethodPut, "/v1/code/"+url.PathEscape(environment), nil, &d)
}

func (a *API) withdraw(r *http.Request) (any, error) {
	e, err := puppet.ParseEnvironment(r.PathValue("environment"))
	if err != nil {
		return nil, err
	}
	return done{true}, a.m.Deployer.Withdraw(r.Context(), e)
}

// Withdraw leaves an environment to each member's own folder again.
func (c *Client) Withdraw(ctx context.Context, environment string) error {
	return c.call(ctx, http.MethodDelete, "/v1/code/"+url.PathEscape(environment), nil, nil)
}
