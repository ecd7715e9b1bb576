{{/*
What the controller may do in the namespaces of Functions. Each verb is one that the code uses; a right to read Secrets
is not among them, since what functions get is derived (docs/adr/0003-secrets-are-derived.md).
*/}}
{{- define "forebay.rules.functions" -}}
- apiGroups: [forebay.dev]
  resources: [functions]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [forebay.dev]
  resources: [functions/status]
  verbs: [patch]
# Without it no object may name a Function as an owner whose deletion it holds up.
- apiGroups: [forebay.dev]
  resources: [functions/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [get, create, patch]
{{- end -}}

{{/* What the uninstall hook may do there: take back what the controller made. */}}
{{- define "forebay.rules.uninstall" -}}
- apiGroups: [forebay.dev]
  resources: [functions]
  verbs: [list, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
- apiGroups: [""]
  resources: [secrets]
  verbs: [delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, delete]
{{- end -}}

{{/* Grants a role to a service account. Takes kind (Role or ClusterRole), name and account (its name). */}}
{{- define "forebay.grant" -}}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "forebay.fullname" .root }}-{{ .account }}
    namespace: {{ .root.Release.Namespace }}
{{- end -}}

{{/*
Rights in the namespaces of Functions: a ClusterRole for all of them, or a Role in each that is listed. Takes root,
component, suffix, account, rules (the name of a template), and optionally annotations and cluster (more rules for the
ClusterRole, which a Role cannot give).
*/}}
{{- define "forebay.rights" -}}
{{- $name := printf "%s-%s" (include "forebay.fullname" .root) .suffix -}}
{{- if not .root.Values.namespaces -}}
{{- $name = printf "%s-%s" .root.Release.Namespace $name -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  {{- include "forebay.clusterMetadata" . | nindent 2 }}
rules:
  {{- include .rules .root | nindent 2 }}
  {{- with .cluster }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  {{- include "forebay.clusterMetadata" . | nindent 2 }}
{{ include "forebay.grant" (merge (dict "kind" "ClusterRole" "name" $name) .) }}
{{- else -}}
{{- range .root.Values.namespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  {{- include "forebay.metadata" (merge (dict "namespace" .) $) | nindent 2 }}
rules:
  {{- include $.rules $.root | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  {{- include "forebay.metadata" (merge (dict "namespace" .) $) | nindent 2 }}
{{ include "forebay.grant" (merge (dict "kind" "Role" "name" $name) $) }}
{{- end -}}
{{- end -}}
{{- end -}}
