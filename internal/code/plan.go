package code

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"troupe/internal/fault"
)

// This file lists plans (puppet/module/plan.rb,
// info_service/plan_information_service.rb).

// A PlanDetail is the answer of GET /puppet/v3/plans/<module>/<plan>.
type PlanDetail struct {
	Metadata json.RawMessage `json:"metadata"` // plans have none: {}
	Name     string          `json:"name"`
}

// reservedPlanNames cannot name a plan: words and data types of the language.
var reservedPlanNames = strings.Fields(`
	and application attr case class consumes default else elsif environment false function if import in
	inherits node or private produces site true type undef unless
	any array boolean catalogentry collection callable data enum float hash integer numeric optional
	pattern resource runtime scalar string struct tuple variant`)

// plans are the names of a module's plans, sorted.
func (m *Module) plans() []string {
	dir := m.node.find("plans")
	if dir != nil {
		dir = dir.follow()
	}
	if dir == nil || dir.kind != dirKind {
		return nil
	}
	var names []string
	for _, n := range dir.children {
		name, extension := stem(n.name), path.Ext(n.name)
		if n.follow() == nil || !taskName.MatchString(name) || extension != ".pp" && extension != ".yaml" ||
			slices.Contains(reservedPlanNames, name) || slices.Contains(names, name) {
			continue
		}
		names = append(names, name)
	}
	return names
}

// Plans lists the full names of the plans of all modules.
func (v *Version) Plans(ctx context.Context) ([]string, error) {
	all := []string{}
	for _, m := range v.modules {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("listing plans: %w", err)
		}
		for _, name := range m.plans() {
			all = append(all, qualified(m.Name, name))
		}
	}
	return all, nil
}

// Plan describes one plan. Faults are NotFound with puppetserver's words.
func (v *Version) Plan(_ context.Context, module, name string) (PlanDetail, error) {
	m := v.Module(module)
	if m == nil {
		return PlanDetail{}, fault.New(fault.NotFound, "Could not find module '%s'", module)
	}
	if !slices.Contains(m.plans(), name) {
		return PlanDetail{}, fault.New(fault.NotFound, "Could not find plan '%s'", name)
	}
	return PlanDetail{Metadata: json.RawMessage("{}"), Name: qualified(module, name)}, nil
}
