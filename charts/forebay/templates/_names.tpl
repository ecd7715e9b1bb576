{{/* The value of app.kubernetes.io/name. */}}
{{- define "forebay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* What objects' names start with: 40 characters, since a StatefulSet's pods bear it with two suffixes in a label. */}}
{{- define "forebay.fullname" -}}
{{- $name := include "forebay.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What the controller labels functions' objects with (app.kubernetes.io/part-of). */}}
{{- define "forebay.releaseId" -}}
{{- printf "%s.%s" .Release.Namespace .Release.Name -}}
{{- end -}}

{{/* A Service's name in the cluster. Takes root and the suffix. */}}
{{- define "forebay.serviceHost" -}}
{{- printf "%s-%s.%s.svc.%s" (include "forebay.fullname" .root) .suffix .root.Release.Namespace .root.Values.clusterDomain -}}
{{- end -}}

{{/* What selects a component's pods; it may never change. Takes root and component. */}}
{{- define "forebay.selector" -}}
app.kubernetes.io/name: {{ include "forebay.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* All labels of a component's objects, except the chart's version: that would roll pods. Takes root and component. */}}
{{- define "forebay.labels" -}}
{{ include "forebay.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
The metadata of an object. Takes root, component, and optionally suffix (of its name; the component by default),
namespace, labels and annotations of its own.
*/}}
{{- define "forebay.metadata" -}}
name: {{ include "forebay.fullname" .root }}-{{ default .component .suffix }}
namespace: {{ default .root.Release.Namespace .namespace }}
labels:
  {{- include "forebay.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The same for an object of the whole cluster, whose name bears the namespace too. */}}
{{- define "forebay.clusterMetadata" -}}
name: {{ printf "%s-%s-%s" .root.Release.Namespace (include "forebay.fullname" .root) .suffix }}
labels:
  {{- include "forebay.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A component's image. Takes root and image (repository, tag, digest). */}}
{{- define "forebay.image" -}}
{{- $name := .image.repository -}}
{{- with .root.Values.image.registry -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .) $name -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (coalesce .image.tag .root.Values.image.tag .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* A managed runtime that runs Python, for examples: `python3.…` if there is one. */}}
{{- define "forebay.pythonRuntime" -}}
{{- $first := keys .Values.runtimes | sortAlpha | first -}}
{{- range keys .Values.runtimes | sortAlpha -}}
{{- if hasPrefix "python" . -}}{{- $first = . -}}{{- end -}}
{{- end -}}
{{- $first -}}
{{- end -}}
