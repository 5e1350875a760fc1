package access

// A Right is something that somebody may do.
type Right string

// The rights.
const (
	Decide Right = "decide" // charge subjects, and give charges back
	Read   Right = "read"   // see everything but secrets
	Change Right = "change" // change subjects, overrides, keys, and usage
	Govern Right = "govern" // change tiers, tokens, and what load does
)

// A Role is a set of rights.
type Role string

// The roles.
const (
	Service  Role = "service"  // an application that asks for decisions
	Viewer   Role = "viewer"   // somebody who looks
	Operator Role = "operator" // somebody who looks after customers
	Owner    Role = "owner"    // somebody who sells the plans
)

// Roles are all of them, the least first.
var Roles = []Role{Service, Viewer, Operator, Owner}

// RoleRule is what a role may be, as an error says it.
const RoleRule = "service, viewer, operator or owner"

var rights = map[Role][]Right{
	Service:  {Decide},
	Viewer:   {Read},
	Operator: {Decide, Read, Change},
	Owner:    {Decide, Read, Change, Govern},
}

// Valid reports whether r is one of the roles.
func (r Role) Valid() bool { return rights[r] != nil }

// Least returns the role with the fewest rights that has one of these; "" if none has.
func Least(oneOf ...Right) Role {
	for _, r := range Roles {
		if r.May(oneOf...) {
			return r
		}
	}
	return ""
}

// May reports whether r has one of these rights.
func (r Role) May(oneOf ...Right) bool {
	for _, has := range rights[r] {
		for _, want := range oneOf {
			if has == want {
				return true
			}
		}
	}
	return false
}
