{{/* The spec of a Service for callers. Takes root, component, service (its values) and port (the container port's name). */}}
{{- define "forebay.service" -}}
type: {{ .service.type }}
{{- with .service.loadBalancerClass }}
loadBalancerClass: {{ . }}
{{- end }}
{{- with .service.loadBalancerSourceRanges }}
loadBalancerSourceRanges:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .service.externalTrafficPolicy }}
externalTrafficPolicy: {{ . }}
{{- end }}
selector:
  {{- include "forebay.selector" . | nindent 2 }}
ports:
  - name: {{ .port }}
    port: {{ int .service.port }}
    targetPort: {{ .port }}
    appProtocol: http
    {{- if .service.nodePort }}
    nodePort: {{ int .service.nodePort }}
    {{- end }}
{{- end -}}

{{/* The Service by which Prometheus finds a component's pods; headless, since each has its own numbers. */}}
{{- define "forebay.metricsService" -}}
{{- $labels := dict "forebay.dev/metrics" .component -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "forebay.metadata" (merge (dict "suffix" (printf "%s-metrics" .component) "labels" $labels) .) | nindent 2 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "forebay.selector" . | nindent 4 }}
  ports:
    - {name: metrics, port: 8483, targetPort: metrics, appProtocol: http}
{{- end -}}

{{/* An Ingress. Takes root, component, suffix, ingress (its values), service and port. */}}
{{- define "forebay.ingress" -}}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  {{- include "forebay.metadata" (merge (dict "annotations" .ingress.annotations) .) | nindent 2 }}
spec:
  {{- with .root.Values.ingress.className }}
  ingressClassName: {{ . }}
  {{- end }}
  {{- with .ingress.tlsSecretName }}
  tls:
    - hosts: [{{ $.ingress.host | quote }}]
      secretName: {{ . }}
  {{- end }}
  rules:
    - host: {{ .ingress.host | quote }}
      http:
        paths:
          - path: /
            pathType: Prefix
            backend:
              service:
                name: {{ include "forebay.fullname" .root }}-{{ .service }}
                port: {name: {{ .port }}}
{{- end -}}

{{/* An HTTPRoute. Takes root, component, suffix, route (its values), service and port. */}}
{{- define "forebay.httpRoute" -}}
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  {{- include "forebay.metadata" (merge (dict "annotations" .route.annotations) .) | nindent 2 }}
spec:
  parentRefs:
    {{- toYaml .route.parentRefs | nindent 4 }}
  hostnames:
    {{- toYaml .route.hostnames | nindent 4 }}
  rules:
    - matches:
        - path: {type: PathPrefix, value: /}
      backendRefs:
        - {name: {{ include "forebay.fullname" .root }}-{{ .service }}, port: {{ int .port }}}
{{- end -}}
